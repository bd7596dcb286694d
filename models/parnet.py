"""ParNet (Goyal et al., 2021), published as SimpNet: streams at several resolutions, fused at the very end.

Modules carry the published names, so that a published state dict loads as it is. The deploy form has the published
hand fusion's layout: each block's 3×3 and 1×1 convs are one 3×3 conv with a bias; the norm of the skip, the norms
before a fusion and every gate stay.
"""

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .options import Option, classifier_options, flag, fraction, whole, wholes, word
from .parnet_blocks import ACTIVATIONS, Branches, Interleave, NormPair
from .repvgg import conv_norm

STREAM_BLOCKS = (0, 4, 5, 5)  # of the streams at 1/2, 1/4, 1/8 and 1/16 of the input's size
STEM = 64  # the most channels at 1/2

Stem = Literal["imagenet", "cifar"]

_WIDTHS: Mapping[str, tuple[int, ...]] = {  # channels at 1/4, 1/8 and 1/16, and of the last block (Table A1)
    "s": (92, 192, 384, 1280),  # as released; the paper has 96
    "s_96": (96, 192, 384, 1280),
    "m": (128, 256, 512, 2048),
    "l": (160, 320, 640, 2560),
    "xl": (200, 400, 800, 3200),
}
_DEPTHS = {9: (0, 1, 2, 2), 15: (0, 7, 8, 8)}  # Table 11; 12 is the usual one


def _scaled(width: int, last: int = 2048) -> tuple[int, ...]:
    return (width, 2 * width, 4 * width, last)


_ONE_STREAM = {"planes": _scaled(144), "blocks": (0, 0, 0, 6)}
VARIANTS: Mapping[str, dict[str, Any]] = {
    **{f"parnet_{size}": {"planes": planes} for size, planes in _WIDTHS.items()},
    **{
        f"parnet_{size}_depth{depth}": {"planes": _WIDTHS[size], "blocks": blocks}
        for size in ("m", "l", "xl")
        for depth, blocks in _DEPTHS.items()
    },
    # the parameters of ParNet-M in 1, 2 or 4 streams (Table 10); two have two readings
    "parnet_m_1stream": _ONE_STREAM,
    "parnet_m_2streams": {"planes": _scaled(132), "blocks": (0, 0, 5, 5)},
    "parnet_m_2streams_apart": {"planes": _scaled(136), "blocks": (0, 5, 0, 5)},
    "parnet_m_4streams": {"planes": _scaled(128), "blocks": (4, 4, 5, 5)},
    # the mean of single streams (Table 9)
    "parnet_ensemble_2": {**_ONE_STREAM, "members": 2},
    "parnet_ensemble_3": {**_ONE_STREAM, "members": 3},
    "parnet_m_no_gates": {"planes": _WIDTHS["m"], "gates": False},  # Table 7
    # Table 6: 1.3, 15.5 and 35 million parameters
    **{
        f"parnet_cifar{classes}_{width}": {
            "planes": _scaled(width, 8 * width),
            "blocks": (0, 3, 4, 4),
            "stem": "cifar",
            "drop_rate": 0.2,
            "num_classes": classes,
        }
        for classes in (10, 100)
        for width in (32, 112, 168)
    },
    "parnet_digits": {"planes": (16, 24, 32, 64)},
}
_DROP_RATE = 0.1  # of the released ParNet-L and -XL


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a variant; `activation` because the released networks run ReLU, and §3.1 says SiLU."""
    published = VARIANTS[name]
    large = name.startswith(("parnet_l", "parnet_xl"))
    return {
        **classifier_options(name, published.get("num_classes", 1000)),
        "activation": word("relu", "silu"),
        "planes": wholes(published["planes"]),
        "blocks": wholes(published.get("blocks", STREAM_BLOCKS), low=0),
        "gates": flag(published.get("gates", True)),
        "drop_rate": fraction(published.get("drop_rate", _DROP_RATE if large else 0.0)),
        **({"members": whole(published["members"])} if "members" in published else {}),
    }


def build(name: str, *, deploy: bool = False, members: int | None = None, **options: Any) -> nn.Module:
    """Build a variant.

    Raises:
        ValueError: as `ParNet` does.
    """
    stem: Stem = VARIANTS[name].get("stem", "imagenet")
    if members is None:
        return ParNet(**options, stem=stem, deploy=deploy)
    return Ensemble(ParNet(**options, stem=stem, deploy=deploy) for _ in range(members))


class ParNet(nn.Module):
    """ParNet (Non-deep Networks §3.3, Table A1), for heights and widths that are multiples of 32, or of 4 for CIFAR.

    Args:
        planes: channels at 1/4, 1/8 and 1/16 of the input's size, the last of them an even number, and of the last
            block.
        blocks: of the streams at 1/2, 1/4, 1/8 and 1/16; none where there is no stream, but some in the last.
        stem: "cifar" begins with three blocks of stride 1, and ends with a 1×1 conv (§3.3): all sizes are 4 times as
            large.
        gates: whether blocks have their squeeze and excitation (Table 7).
        activation: "relu", as released, or "silu", as the paper says.
        num_classes: of the classifier.
        in_channels: of the input.
        drop_rate: of the dropout before the classifier, while training.
        deploy: build the deploy form, one 3×3 conv with a bias in each block.

    Raises:
        ValueError: a fusion's output does not split into its two groups, or `blocks` has no last stream.
    """

    def __init__(
        self,
        planes: Sequence[int],
        blocks: Sequence[int] = STREAM_BLOCKS,
        *,
        stem: Stem = "imagenet",
        gates: bool = True,
        activation: str = "relu",
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        first = min(STEM, planes[0])
        widths = (first, *planes[:3])
        _check(widths, blocks)
        stride = 1 if stem == "cifar" else 2

        def block(channels: int, width: int, stride: int, groups: int = 1) -> nn.Module:
            branches = Branches(channels, width, stride, groups, activation=activation, gates=gates, deploy=deploy)
            return nn.Sequential(OrderedDict(block=branches))

        def fusion(channels: int, width: int, stride: int) -> list[nn.Module]:
            return [NormPair(channels), Interleave(), block(2 * channels, width, stride, groups=2)]

        # down[i]: the blocks that lead to level i, at 1/2^(i+1) of the input's size
        down = [[block(in_channels, first, stride)], [block(first, widths[1], stride)]]
        if stem == "cifar":
            down[1].append(block(widths[1], widths[1], 1))
        down += [[block(widths[level - 1], widths[level], 2)] for level in (2, 3)]

        levels = [level for level in range(4) if blocks[level]]
        begins = [0, *(level + 1 for level in levels[:-1])]
        self.inits = nn.ModuleList(
            _chain([part for step in down[begin : level + 1] for part in step])
            for begin, level in zip(begins, levels, strict=True)
        )
        self.streams = nn.ModuleList(
            nn.Sequential(*(block(widths[level], widths[level], 1) for _ in range(blocks[level]))) for level in levels
        )
        self.downsamples_2 = nn.ModuleList()
        for i, (level, next_level) in enumerate(itertools.pairwise(levels)):
            lead = [] if i == 0 else fusion(widths[level], widths[level + 1], 2)
            rest = range(level + bool(lead), next_level)
            self.downsamples_2.append(_chain(lead + [block(widths[at], widths[at + 1], 2) for at in rest]))
        w = widths[3]
        last = _pointwise(w, planes[3], activation, deploy=deploy) if stem == "cifar" else block(w, planes[3], 2)
        self.combine = nn.Sequential(*(fusion(w, w, 1) if len(levels) > 1 else ()), last)
        self.head = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                drop=nn.Dropout(drop_rate),
                fc=nn.Linear(planes[3], num_classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] → logits [N, num_classes]."""
        _, last = self.fused(x)
        return self.head(self.combine(last))  # type: ignore[no-any-return]

    def fused(self, x: Tensor) -> tuple[list[Tensor], Any]:
        """[N, in_channels, H, W] → every stream's output, and what `combine` takes: the last, and all others fused."""
        outputs: list[Tensor] = []
        fused: Any = None
        for i, (init, stream) in enumerate(zip(self.inits, self.streams, strict=True)):
            x = init(x)
            outputs.append(stream(x))
            fused = outputs[-1] if fused is None else (outputs[-1], fused)
            if i < len(self.downsamples_2):
                fused = self.downsamples_2[i](fused)
        return outputs, fused


class Ensemble(nn.Module):
    """The mean of several networks' logits (Non-deep Networks, Table 9); keys `members.0.*` and so on."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → logits [N, num_classes]."""
        return torch.stack([member(x) for member in self.members]).mean(0)


def _check(widths: Sequence[int], blocks: Sequence[int]) -> None:
    if not blocks[3]:
        raise ValueError(f"blocks are {list(blocks)}, but the last stream, at 1/16, is the one that all fuse into")
    levels = [level for level in range(4) if blocks[level]]
    fused = {min(level + 1, 3) for level in levels[1:]}
    if odd := [widths[level] for level in sorted(fused) if widths[level] % 2]:
        raise ValueError(f"planes are {list(widths[1:])}, but a fusion has 2 groups; make {odd[0]} an even number")


def _chain(parts: Sequence[nn.Module]) -> nn.Module:
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _pointwise(channels: int, width: int, activation: str, *, deploy: bool) -> nn.Module:
    conv: nn.Module = nn.Conv2d(channels, width, 1) if deploy else conv_norm(channels, width, 1, 1, groups=1)
    return nn.Sequential(OrderedDict(block=conv, act=ACTIVATIONS[activation]()))
