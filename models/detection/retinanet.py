"""RetinaNet (Lin et al., 2017) on VanillaNet-13 (VanillaNet §4.4), under the names of its published checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..options import Option, detector_options, whole
from .backbone import FeaturePyramid, VanillaBackbone, named_conv
from .boxes import Anchors, best, best_of_level, clipped, decode, image_sizes

DIMS = (512, 512, 1024, *[2048] * 7, 4096, 4096)
STRIDES = (1, 2, 2, 1, 1, 1, 1, 1, 1, 2, 1)
TAPS = (1, 8, 10)
LEVEL_STRIDES = (8, 16, 32, 64, 128)
CONVS = 4

VARIANTS: Mapping[str, dict[str, Any]] = {"retinanet_vanillanet_13": {"dims": DIMS, "strides": STRIDES}}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a variant."""
    return {
        "num_classes": whole(80),
        "series_order": whole(4, low=0, high=15),
        "channels": whole(256),
        **detector_options(0.05, 0.5, 1000, 100),
    }


def build(name: str, *, deploy: bool = False, **options: Any) -> nn.Module:
    """Build a variant."""
    return RetinaNet(**VARIANTS[name], **options, deploy=deploy)


def options_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read off a state dict n of the series activations, and the number of classes."""
    classes = state.get("bbox_head.retina_cls.weight")
    told = series_order_in(state)
    if classes is not None and classes.ndim == 4 and classes.shape[0] % RetinaNet.anchors.at_each_place == 0:
        told["num_classes"] = classes.shape[0] // RetinaNet.anchors.at_each_place
    return told


def series_order_in(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read off a state dict n of the backbone's series activations, from the (2n+1)² kernel of the first."""
    first = state.get("backbone.stem2.2.weight", state.get("backbone.stem.1.weight"))
    told = first is not None and first.ndim == 4 and first.shape[-1] % 2 == 1
    return {"series_order": first.shape[-1] // 2} if first is not None and told else {}


class RetinaNet(nn.Module):
    """Backbone, pyramid of five levels, and a head of nine anchors at each place; sizes that are multiples of 32.

    Args:
        dims: channels of the backbone, see `VanillaBackbone`.
        strides: of its stages.
        num_classes: of the detections.
        series_order: n of the backbone's series activations; the published checkpoint has 4, the paper's table 3.
        channels: of the pyramid and the head.
        score_threshold: what a score must be above.
        iou_threshold: of the non-maximum suppression.
        candidates: the most (anchor, class) of a level that go into it.
        detections: how many come out.
        nms: how it is expressed in ONNX, see `ops.nms`.
        deploy: build the backbone's deploy form.
    """

    anchors = Anchors(scales=tuple(4.0 * 2 ** (k / 3) for k in range(3)))

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        *,
        num_classes: int = 80,
        series_order: int = 4,
        channels: int = 256,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        candidates: int = 1000,
        detections: int = 100,
        nms: str = "plain",
        deploy: bool = False,
    ) -> None:
        super().__init__()
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.candidates, self.detections, self.nms = candidates, detections, nms
        self.num_classes = num_classes
        self.backbone = VanillaBackbone(dims, strides, TAPS, series_order=series_order, deploy=deploy)
        self.neck = FeaturePyramid([dims[tap + 1] for tap in TAPS], channels, extra=2)
        self.bbox_head = RetinaHead(channels, num_classes, self.anchors.at_each_place)

    def heads(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """[B, 3, H, W] → logits [B, 9·classes, h, w] and deltas [B, 36, h, w] of each level, the finest first."""
        levels = [self.bbox_head(level) for level in self.neck(self.backbone(images))]
        return [logits for logits, _ in levels], [deltas for _, deltas in levels]

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Detect, best first.

        Given images [B, 3, H, W], H and W multiples of 32, and optionally their heights and widths without padding
        [B, 2] → boxes [B, D, 4] in pixels, scores [B, D], labels [B, D], −1 behind the last, and their count [B].
        """
        sizes = image_sizes(images, sizes)
        boxes, scores, labels = [], [], []
        for logits, deltas, stride in zip(*self.heads(images), LEVEL_STRIDES, strict=True):
            level = best_of_level(logits, deltas, self.anchors.of_level(logits, stride), self.candidates)
            boxes.append(clipped(decode(level.boxes, level.deltas), sizes))
            score = level.logits.sigmoid()
            scores.append(torch.where(score > self.score_threshold, score, torch.zeros_like(score)))
            labels.append(level.labels)
        return best(
            torch.cat(boxes, 1),
            torch.cat(scores, 1),
            torch.cat(labels, 1),
            classes=self.num_classes,
            iou_threshold=self.iou_threshold,
            most=self.detections,
            form=self.nms,
        )


class RetinaHead(nn.Module):
    """Four 3×3 convs and ReLUs to classes, four more to boxes, the same weights for every level."""

    def __init__(self, channels: int, num_classes: int, anchors: int) -> None:
        super().__init__()
        self.cls_convs = nn.ModuleList(named_conv(channels, channels, 3) for _ in range(CONVS))
        self.reg_convs = nn.ModuleList(named_conv(channels, channels, 3) for _ in range(CONVS))
        self.retina_cls = nn.Conv2d(channels, anchors * num_classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(channels, anchors * 4, 3, padding=1)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """[B, channels, h, w] → logits [B, A·classes, h, w], deltas [B, A·4, h, w]."""
        classes, boxes = level, level
        for conv in self.cls_convs:
            classes = conv(classes).relu()
        for conv in self.reg_convs:
            boxes = conv(boxes).relu()
        return self.retina_cls(classes), self.retina_reg(boxes)
