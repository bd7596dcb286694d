"""RepVGG (Ding et al., 2021): a chain of blocks, each 3×3 conv ∥ 1×1 conv ∥ identity, a norm on every branch.

Modules carry the published names, so that a published state dict loads as it is.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .options import Option, classifier_options

_A_BLOCKS, _B_BLOCKS = (2, 4, 14, 1), (4, 6, 16, 1)
_WIDTHS: Mapping[str, tuple[tuple[int, ...], float, float]] = {  # blocks, a, b (RepVGG Table 2 and §3.4)
    "a0": (_A_BLOCKS, 0.75, 2.5),
    "a1": (_A_BLOCKS, 1.0, 2.5),
    "a2": (_A_BLOCKS, 1.5, 2.75),
    "b0": (_B_BLOCKS, 1.0, 2.5),
    "b1": (_B_BLOCKS, 2.0, 4.0),
    "b2": (_B_BLOCKS, 2.5, 5.0),
    "b3": (_B_BLOCKS, 3.0, 5.0),
}


def variant(size: str, groups: int = 1) -> dict[str, Any]:
    """`num_blocks`, `widths` and `groups` of RepVGG-`size`; the first three stages widen by a, the last by b."""
    num_blocks, a, b = _WIDTHS[size]
    widths = (*(int(base * a) for base in (64, 128, 256)), int(512 * b))
    return {"num_blocks": num_blocks, "widths": widths, "groups": groups}


VARIANTS: Mapping[str, dict[str, Any]] = {
    **{f"repvgg_{size}": variant(size) for size in _WIDTHS},
    **{f"repvgg_{size}g{groups}": variant(size, groups) for size in ("b1", "b2", "b3") for groups in (2, 4)},
}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a variant."""
    return classifier_options(name)


def build(name: str, *, deploy: bool = False, **options: Any) -> nn.Module:
    """Build a variant."""
    return RepVGG(**VARIANTS[name], **options, deploy=deploy)


class RepVGG(nn.Module):
    """RepVGG (RepVGG §3), for any height and width.

    Args:
        num_blocks: of each of the four stages; each begins with stride 2, as does the block before them.
        widths: channels of each stage.
        groups: of every second layer, counting the block before the stages as layer 0 (RepVGG §3.4).
        num_classes: of the classifier.
        in_channels: of the input.
        deploy: build the deploy form, one 3×3 conv with a bias in each block.
    """

    def __init__(
        self,
        num_blocks: Sequence[int],
        widths: Sequence[int],
        groups: int = 1,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        channels = min(64, widths[0])
        self.stage0 = Block(in_channels, channels, stride=2, deploy=deploy)
        stages, layer = [], 1
        for blocks, width in zip(num_blocks, widths, strict=True):
            stage = []
            for block in range(blocks):
                block_groups = groups if layer % 2 == 0 else 1
                stage.append(Block(channels, width, 2 if block == 0 else 1, block_groups, deploy=deploy))
                channels, layer = width, layer + 1
            stages.append(nn.Sequential(*stage))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] → logits [N, num_classes]."""
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stage0(x)))))
        return self.linear(self.gap(x).flatten(1))  # type: ignore[no-any-return]


class Block(nn.Module):
    """y = ReLU(BN(w3*x) + BN(w1*x) + BN(x)), the last where shapes allow it (RepVGG §3.2); deploy: ReLU(w*x + b)."""

    def __init__(self, channels: int, width: int, stride: int, groups: int = 1, *, deploy: bool) -> None:
        super().__init__()
        self.nonlinearity = nn.ReLU()
        self.deploy = deploy
        if deploy:
            self.rbr_reparam = nn.Conv2d(channels, width, 3, stride, padding=1, groups=groups)
        else:
            self.rbr_identity = nn.BatchNorm2d(channels) if (channels, stride) == (width, 1) else None
            self.rbr_dense = conv_norm(channels, width, 3, stride, groups)
            self.rbr_1x1 = conv_norm(channels, width, 1, stride, groups)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, width, ⌈H / stride⌉, ⌈W / stride⌉]."""
        y: Tensor
        if self.deploy:
            y = self.rbr_reparam(x)
        else:
            y = self.rbr_dense(x) + self.rbr_1x1(x)
            if self.rbr_identity is not None:
                y = y + self.rbr_identity(x)
        return self.nonlinearity(y)  # type: ignore[no-any-return]


def conv_norm(channels: int, width: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    """Make a conv without bias, padded to keep the size at stride 1, and its norm: keys `conv.*`, `bn.*`."""
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width)))
