"""Mask R-CNN (He et al., 2017) on VanillaNet-13 (VanillaNet §4.4), under the names of its published checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..options import Option, detector_options, flag, whole
from .backbone import FeaturePyramid, VanillaBackbone, named_conv
from .boxes import Anchors, best, best_of_level, clipped, decode, image_sizes, rows
from .ops import at_most, top
from .regions import pasted, region_features
from .retinanet import DIMS, STRIDES, series_order_in

TAPS = (0, 1, 8, 10)
LEVEL_STRIDES = (4, 8, 16, 32, 64)
BOX_BINS, MASK_BINS = 7, 14
BOX_STDS = (0.1, 0.1, 0.2, 0.2)

VARIANTS: Mapping[str, dict[str, Any]] = {"mask_rcnn_vanillanet_13": {"dims": DIMS, "strides": STRIDES}}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a variant."""
    return {
        "num_classes": whole(80),
        "series_order": whole(4, low=0, high=15),
        "channels": whole(256),
        "hidden": whole(1024),
        "proposals": whole(1000),
        "sampling": whole(0, low=0, high=8),
        "paste": flag(False),
        **detector_options(0.05, 0.5, 2000, 100),
    }


def build(name: str, *, deploy: bool = False, **options: Any) -> nn.Module:
    """Build a variant."""
    return MaskRCNN(**VARIANTS[name], **options, deploy=deploy)


def options_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read off a state dict n of the series activations, and the number of classes."""
    classes = state.get("roi_head.mask_head.conv_logits.weight")
    told = series_order_in(state)
    return {**told, "num_classes": classes.shape[0]} if classes is not None and classes.ndim == 4 else told


class MaskRCNN(nn.Module):
    """Backbone, pyramid, proposals, and for each its class, box and mask; sizes that are multiples of 32.

    Args:
        dims: channels of the backbone, see `VanillaBackbone`.
        strides: of its stages.
        num_classes: of the detections.
        series_order: n of the backbone's series activations; the published checkpoint has 4, the paper's table 3.
        channels: of the pyramid and the heads.
        hidden: of the box head.
        proposals: the most of an image.
        score_threshold: what a score must be above.
        iou_threshold: of the last non-maximum suppression.
        candidates: the most (proposal, class) that go into it; `exact` tells where that left one out which counts.
        detections: how many come out.
        sampling: of RoIAlign, see `region_features`; anything but 0 is not what the checkpoint was trained with.
        paste: give masks of the image's size in place of 28 × 28 probabilities.
        nms: how it is expressed in ONNX, see `ops.nms`.
        deploy: build the backbone's deploy form.
    """

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        *,
        num_classes: int = 80,
        series_order: int = 4,
        channels: int = 256,
        hidden: int = 1024,
        proposals: int = 1000,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        candidates: int = 2000,
        detections: int = 100,
        sampling: int = 0,
        paste: bool = False,
        nms: str = "plain",
        deploy: bool = False,
    ) -> None:
        super().__init__()
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.candidates, self.detections, self.nms = candidates, detections, nms
        self.sampling, self.paste = sampling, paste
        self.backbone = VanillaBackbone(dims, strides, TAPS, series_order=series_order, deploy=deploy)
        self.neck = FeaturePyramid([dims[tap + 1] for tap in TAPS], channels)
        self.rpn_head = ProposalHead(channels, proposals, nms)
        self.roi_head = nn.Module()
        self.roi_head.bbox_head = BoxHead(channels, hidden, num_classes)
        self.roi_head.mask_head = MaskHead(channels, num_classes)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Detect, best first.

        Given images [B, 3, H, W], H and W multiples of 32, and optionally their heights and widths without padding
        [B, 2] → boxes [B, D, 4] in pixels, scores [B, D], labels [B, D], −1 behind the last, their count [B], whether
        no candidate that counts was left out [B], and masks: probabilities [B, D, 28, 28], or bool [B, D, H, W].
        """
        sizes = image_sizes(images, sizes)
        levels = self.neck(self.backbone(images))
        proposals = self.rpn_head(levels, sizes)
        logits, deltas = self.box_logits(levels, proposals["boxes"])
        found = self._boxes(logits, deltas, proposals, sizes)
        masks = self._masks(levels, found["boxes"], found["labels"])
        return {**found, "masks": pasted(masks, found["boxes"], *images.shape[-2:]) if self.paste else masks}

    def box_logits(self, levels: list[Tensor], proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals [B, R, 4] → logits [B, R, classes + 1], the background last, and deltas [B, R, classes, 4]."""
        regions = self.regions(levels, proposals, BOX_BINS)
        return self.roi_head.bbox_head(regions)  # type: ignore[no-any-return,operator]

    def regions(self, levels: list[Tensor], rois: Tensor, size: int) -> Tensor:
        """Regions [B, R, 4] → their features [B, R, channels, size, size]; the coarsest level has proposals alone."""
        return region_features(levels[:-1], LEVEL_STRIDES[:-1], rois, size, self.sampling)

    def _boxes(
        self, logits: Tensor, deltas: Tensor, proposals: Mapping[str, Tensor], sizes: Tensor
    ) -> dict[str, Tensor]:
        classes = deltas.shape[2]
        scores = logits.softmax(-1)[..., :-1]
        counts = (scores > self.score_threshold) & (proposals["scores"] > 0)[..., None]
        scores = torch.where(counts, scores, torch.zeros_like(scores)).flatten(1)
        most = at_most(self.candidates, scores.shape[1])
        best_scores, index = top(scores, most)
        boxes = decode(rows(proposals["boxes"], index // classes), rows(deltas.flatten(1, 2), index), BOX_STDS)
        found = best(
            clipped(boxes, sizes),
            best_scores,
            index % classes,
            classes=classes,
            iou_threshold=self.iou_threshold,
            most=self.detections,
            form=self.nms,
        )
        all_in = counts.flatten(1).sum(1) <= most
        return {**found, "exact": all_in | (found["count"] == self.detections)}

    def _masks(self, levels: list[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Of each box, the probability of its own class."""
        logits = self.roi_head.mask_head(self.regions(levels, boxes, MASK_BINS))  # type: ignore[operator]
        own = labels.clamp(min=0)[..., None, None, None].expand(-1, -1, 1, *logits.shape[-2:])
        return torch.gather(logits, 2, own).squeeze(2).sigmoid()


class ProposalHead(nn.Module):
    """Proposals: of each level the best anchors, decoded; of these what non-maximum suppression by level keeps."""

    anchors = Anchors(scales=(8.0,))
    candidates = 1000  # of a level
    iou_threshold = 0.7

    def __init__(self, channels: int, proposals: int, nms: str) -> None:
        super().__init__()
        self.proposals, self.nms = proposals, nms
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, self.anchors.at_each_place, 1)
        self.rpn_reg = nn.Conv2d(channels, self.anchors.at_each_place * 4, 1)

    def heads(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Levels [B, channels, h, w] → logits [B, 3, h, w] and deltas [B, 12, h, w] of each."""
        hidden = [self.rpn_conv(level).relu() for level in levels]
        return [self.rpn_cls(x) for x in hidden], [self.rpn_reg(x) for x in hidden]

    def forward(self, levels: list[Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Return boxes [B, P, 4] and scores [B, P], 0 behind the last; as `best` does."""
        boxes, scores, numbers = [], [], []
        for i, (logits, deltas, stride) in enumerate(zip(*self.heads(levels), LEVEL_STRIDES, strict=True)):
            level = best_of_level(logits, deltas, self.anchors.of_level(logits, stride), self.candidates)
            box = clipped(decode(level.boxes, level.deltas), sizes)
            has_size = ((box[..., 2:] - box[..., :2]) > 0).all(-1)
            score = level.logits.sigmoid()
            boxes.append(box)
            scores.append(torch.where(has_size, score, torch.zeros_like(score)))
            numbers.append(torch.full_like(level.labels, i))
        return best(
            torch.cat(boxes, 1),
            torch.cat(scores, 1),
            torch.cat(numbers, 1),
            classes=len(LEVEL_STRIDES),
            iou_threshold=self.iou_threshold,
            most=self.proposals,
            form=self.nms,
        )


class BoxHead(nn.Module):
    """Two linear layers and ReLUs, then class and box."""

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(channels * BOX_BINS**2, hidden), nn.Linear(hidden, hidden)])
        self.fc_cls = nn.Linear(hidden, num_classes + 1)
        self.fc_reg = nn.Linear(hidden, num_classes * 4)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """[B, R, channels, 7, 7] → logits [B, R, classes + 1], deltas [B, R, classes, 4]."""
        x = regions.flatten(2)
        for layer in self.shared_fcs:
            x = layer(x).relu()
        return self.fc_cls(x), self.fc_reg(x).unflatten(-1, (-1, 4))


class MaskHead(nn.Module):
    """Four 3×3 convs and ReLUs, one to twice the size, then a mask for each class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(named_conv(channels, channels, 3) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)

    def forward(self, regions: Tensor) -> Tensor:
        """[B, D, channels, 14, 14] → logits [B, D, classes, 28, 28]."""
        batch, count = regions.shape[:2]
        x = regions.flatten(0, 1)
        for conv in self.convs:
            x = conv(x).relu()
        logits: Tensor = self.conv_logits(self.upsample(x).relu())
        return logits.reshape(batch, count, *logits.shape[1:])
