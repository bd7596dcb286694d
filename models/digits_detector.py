"""A small anchor-free detector of handwritten digits, of the papers' blocks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .options import Option, classifier_options
from .parnet_blocks import Branches
from .repvgg import Block

STRIDES = (8, 16)
PRIOR = -4.6  # logit of the share of places that hold a digit: log(.01 / .99)

VARIANTS: Mapping[str, dict[str, Any]] = {"digits_detector": {}}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of the detector."""
    return classifier_options("_digits")


def build(name: str, *, deploy: bool = False, **options: Any) -> nn.Module:
    """Build it."""
    return DigitsDetector(**VARIANTS[name], **options, deploy=deploy)


class DigitsDetector(nn.Module):
    """RepVGG's blocks, ParNet's from 1/8 on, two levels joined from coarse to fine, one head each.

    For heights and widths that are multiples of 16. At each place the head tells the distances from its centre to the
    four sides, in strides and through a softplus, and a score for each class: the coarse level has the large boxes.

    Args:
        num_classes: of the digits.
        in_channels: of the input.
        deploy: build the deploy form.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, deploy: bool = False) -> None:
        super().__init__()

        def parnet(channels: int, width: int, stride: int) -> Branches:
            return Branches(channels, width, stride, activation="relu", deploy=deploy)

        self.num_classes = num_classes
        self.stem = nn.Sequential(
            Block(in_channels, 16, 2, deploy=deploy), Block(16, 32, 2, deploy=deploy), Block(32, 32, 1, deploy=deploy)
        )
        self.fine = nn.Sequential(parnet(32, 48, 2), parnet(48, 48, 1))
        self.coarse = nn.Sequential(parnet(48, 80, 2), parnet(80, 80, 1))
        self.side = nn.Conv2d(80, 48, 1)
        self.joined = Block(96, 48, 1, deploy=deploy)
        self.heads = nn.ModuleList(
            nn.Sequential(Block(width, width, 1, deploy=deploy), nn.Conv2d(width, 4 + num_classes, 1))
            for width in (48, 80)
        )
        for head in self.heads:
            nn.init.constant_(head[1].bias[4:], PRIOR)  # type: ignore[index]

    def levels(self, x: Tensor) -> list[Tensor]:
        """[N, C, H, W] → raw [N, 4 + num_classes, H/8, W/8] and [N, 4 + num_classes, H/16, W/16]."""
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        up = functional.interpolate(self.side(coarse), scale_factor=2.0, mode="nearest")
        joined = self.joined(torch.cat([fine, up], 1))
        return [head(level) for head, level in zip(self.heads, (joined, coarse), strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, 4 + num_classes, H·W/64 + H·W/256]: x1 y1 x2 y2 in pixels, then a score for each class."""
        decoded = [decode(raw, stride) for raw, stride in zip(self.levels(x), STRIDES, strict=True)]
        return torch.cat(decoded, 2)


def decode(raw: Tensor, stride: int) -> Tensor:
    """A level's raw [N, 4 + C, h, w] → [N, 4 + C, h·w]: corners c ∓ stride·softplus(distance), scores σ(·)."""
    centres = places(raw, stride)
    reach = stride * functional.softplus(raw[:, :4])
    boxes = torch.cat([centres - reach[:, :2], centres + reach[:, 2:]], 1)
    return torch.cat([boxes, raw[:, 4:].sigmoid()], 1).flatten(2)


def places(raw: Tensor, stride: int) -> Tensor:
    """The centres x, y in pixels of the places of a map [N, C, h, w]: [1, 2, h, w]."""
    height, width = raw.shape[-2:]
    x = (torch.arange(width, dtype=raw.dtype, device=raw.device) + 0.5) * stride
    y = (torch.arange(height, dtype=raw.dtype, device=raw.device) + 0.5) * stride
    return torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)])[None]
