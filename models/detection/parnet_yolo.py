"""ParNet-XL as the backbone of a YOLO detector (Non-deep Networks, Table 4).

No code of it is published, nor how many parameters it has. This is our reading of "the head and reduced neck from the
YOLOR-D6 model" in place of YOLOv4-CSP's backbone: levels at 1/8, 1/16 and 1/32 from the second stream, the last fusion
and the last block, the neck of YOLOv4-CSP, and YOLOR's head. In the CSP variant each stream's blocks work on half of
its channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..options import Option, detector_options, whole, wholes, word
from ..parnet import ParNet
from ..parnet_blocks import Branches
from .boxes import best, check_padded, rows
from .csp import CSP, CSP2, SPPCSP, Conv, IDetect
from .ops import at_most, top

ANCHORS = ((12, 16, 19, 36, 40, 28), (36, 75, 76, 55, 72, 146), (142, 110, 192, 243, 459, 401))
PLANES = (200, 400, 800, 3200)

VARIANTS: Mapping[str, dict[str, Any]] = {"parnet_xl_yolo": {"csp": False}, "parnet_xl_csp_yolo": {"csp": True}}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a variant; `score_threshold` and `iou_threshold` as they are evaluated."""
    return {
        "num_classes": whole(80),
        "activation": word("silu", "relu"),
        "planes": wholes(PLANES),
        "neck": whole(512, low=4),
        **detector_options(0.001, 0.6, 3000, 300),
    }


def build(name: str, *, deploy: bool = False, **options: Any) -> nn.Module:
    """Build a variant."""
    return ParNetYolo(**VARIANTS[name], **options, deploy=deploy)


class ParNetYolo(nn.Module):
    """Backbone, neck and head, for heights and widths that are multiples of 32, 640 and above.

    Args:
        num_classes: of the detections.
        activation: of the backbone.
        planes: of the backbone, see `ParNet`.
        neck: channels of the coarsest level; the others have a half and a quarter.
        score_threshold: what the objectness, and its product with a class, must be above.
        iou_threshold: of the non-maximum suppression.
        candidates: the most (box, class) that go into it; `exact` tells where that left one out which counts.
        detections: how many come out.
        nms: how it is expressed in ONNX, see `ops.nms`.
        csp: cross stage partial streams.
        deploy: build the backbone's deploy form.
    """

    def __init__(
        self,
        *,
        num_classes: int = 80,
        activation: str = "silu",
        planes: Sequence[int] = PLANES,
        neck: int = 512,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.6,
        candidates: int = 3000,
        detections: int = 300,
        nms: str = "plain",
        csp: bool = False,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.candidates, self.detections, self.nms = candidates, detections, nms
        self.backbone = ParNet(planes, activation=activation, deploy=deploy)
        del self.backbone.head
        if csp:
            for i, stream in enumerate(self.backbone.streams):
                self.backbone.streams[i] = CSP(
                    planes[i],
                    planes[i],
                    len(list(stream.children())),
                    lambda half: Branches(half, half, 1, activation=activation, deploy=deploy),
                )
        self.neck = Neck(planes[1:], neck)
        self.detect = IDetect(num_classes, ANCHORS, (neck // 2, neck, 2 * neck))

    def levels(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] → the head's inputs at 1/8, 1/16 and 1/32."""
        return self.neck(_features(self.backbone, images))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Detect, best first.

        Given images [B, 3, H, W], letterboxed with 114 and scaled to [0, 1] → boxes [B, D, 4] in pixels, x1 y1 x2 y2,
        scores [B, D], labels [B, D], −1 behind the last, their count [B], and whether no candidate that counts was
        left out [B]. Raises ValueError for heights and widths that are no multiples of 32.
        """
        check_padded(images)
        return self.best_of(self.detect(self.levels(images)))

    def best_of(self, decoded: Tensor) -> dict[str, Tensor]:
        """Keep the best of what `IDetect` gives, each box once for every class that it may be."""
        objectness, classes = decoded[..., 4:5], decoded[..., 5:]
        scores = objectness * classes
        counts = (objectness > self.score_threshold) & (scores > self.score_threshold)
        scores = torch.where(counts, scores, torch.zeros_like(scores)).flatten(1)
        most = at_most(self.candidates, scores.shape[1])
        best_scores, index = top(scores, most)
        box = rows(decoded[..., :4], index // classes.shape[2])
        centre, half = box[..., :2], box[..., 2:] * 0.5
        found = best(
            torch.cat([centre - half, centre + half], -1),
            best_scores,
            index % classes.shape[2],
            classes=classes.shape[2],
            iou_threshold=self.iou_threshold,
            most=self.detections,
            form=self.nms,
        )
        all_in = counts.flatten(1).sum(1) <= most
        return {**found, "exact": all_in | (found["count"] == self.detections)}


class Neck(nn.Module):
    """YOLOv4-CSP's: from coarse to fine, and back, two cross stage partial blocks at each level.

    Args:
        widths: channels in, at 1/8, 1/16 and 1/32.
        top: channels of the coarsest level within; the others have a half and a quarter. Twice as many come out.
    """

    def __init__(self, widths: Sequence[int], top: int) -> None:
        super().__init__()
        fine, middle = top // 4, top // 2
        self.spp = SPPCSP(widths[2], top)
        self.up1, self.side1, self.csp1 = Conv(top, middle, 1), Conv(widths[1], middle, 1), CSP2(top, middle, 2)
        self.up2, self.side2, self.csp2 = Conv(middle, fine, 1), Conv(widths[0], fine, 1), CSP2(middle, fine, 2)
        self.down1, self.csp3 = Conv(fine, middle, 3, 2), CSP2(top, middle, 2)
        self.down2, self.csp4 = Conv(middle, top, 3, 2), CSP2(2 * top, top, 2)
        self.heads = nn.ModuleList(Conv(width, 2 * width, 3) for width in (fine, middle, top))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[B, widths[i], h, w] at 1/8, 1/16 and 1/32 → [B, top / 2, h, w], [B, top, …], [B, 2·top, …]."""
        c3, c4, c5 = features
        p5 = self.spp(c5)
        p4 = self.csp1(torch.cat([self.side1(c4), _doubled(self.up1(p5))], 1))
        p3 = self.csp2(torch.cat([self.side2(c3), _doubled(self.up2(p4))], 1))
        p4 = self.csp3(torch.cat([self.down1(p3), p4], 1))
        p5 = self.csp4(torch.cat([self.down2(p4), p5], 1))
        return [head(level) for head, level in zip(self.heads, (p3, p4, p5), strict=True)]


def _features(backbone: ParNet, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ParNet's second stream at 1/8, its last fusion at 1/16 and its last block at 1/32."""
    streams, fused = backbone.fused(images)
    *fusion, last = backbone.combine
    for part in fusion:
        fused = part(fused)
    return streams[1], fused, last(fused)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
