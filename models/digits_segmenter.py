"""A small segmenter of handwritten digits, of the papers' blocks: an encoder, a decoder, and skips between them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .options import Option, whole
from .parnet_blocks import Branches
from .repvgg import Block

VARIANTS: Mapping[str, dict[str, Any]] = {"digits_segmenter": {}}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of the segmenter; class 0 is the background, class d + 1 the digit d."""
    return {"num_classes": whole(11, low=2), "in_channels": whole(1)}


def build(name: str, *, deploy: bool = False, **options: Any) -> nn.Module:
    """Build it."""
    return DigitsSegmenter(**VARIANTS[name], **options, deploy=deploy)


class DigitsSegmenter(nn.Module):
    """RepVGG's blocks down to 1/4, ParNet's at 1/8, transposed convolutions up again, for multiples of 8.

    Args:
        num_classes: of the pixels.
        in_channels: of the input.
        deploy: build the deploy form.
    """

    def __init__(self, *, num_classes: int = 11, in_channels: int = 1, deploy: bool = False) -> None:
        super().__init__()

        self.down2 = Block(in_channels, 16, 2, deploy=deploy)
        self.down4 = nn.Sequential(Block(16, 32, 2, deploy=deploy), Block(32, 32, 1, deploy=deploy))
        self.down8 = nn.Sequential(
            *(Branches(c, 64, s, activation="relu", deploy=deploy) for c, s in ((32, 2), (64, 1), (64, 1)))
        )
        self.up4, self.join4 = nn.ConvTranspose2d(64, 32, 2, 2), Block(64, 32, 1, deploy=deploy)
        self.up2, self.join2 = nn.ConvTranspose2d(32, 16, 2, 2), Block(32, 16, 1, deploy=deploy)
        self.classes = nn.Conv2d(16, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → logits [N, num_classes, H, W]."""
        half = self.down2(x)
        quarter = self.down4(half)
        y = self.join4(torch.cat([self.up4(self.down8(quarter)), quarter], 1))
        y = self.join2(torch.cat([self.up2(y), half], 1))
        return functional.interpolate(self.classes(y), scale_factor=2.0, mode="bilinear", align_corners=False)
