"""ParNet (Goyal et al., 2021), published as SimpNet: three streams at three resolutions, fused at the very end.

Modules carry the published names, so that a published state dict loads as it is. The deploy form has the published
hand fusion's layout: each block's 3×3 and 1×1 convs are one 3×3 conv with a bias; the norm of the skip, the norms
before a fusion and every gate stay.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .options import Option, fraction, whole, wholes, word
from .repvgg import conv_norm

STREAM_BLOCKS = (4, 5, 5)
ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}

VARIANTS: Mapping[str, dict[str, Any]] = {
    "parnet_s": {"planes": (92, 192, 384, 1280)},  # as released; the paper has 96 in the first stream
    "parnet_s_96": {"planes": (96, 192, 384, 1280)},
    "parnet_m": {"planes": (128, 256, 512, 2048)},
    "parnet_l": {"planes": (160, 320, 640, 2560), "drop_rate": 0.1},
    "parnet_xl": {"planes": (200, 400, 800, 3200), "drop_rate": 0.1},
    "parnet_digits": {"planes": (16, 24, 32, 64)},
}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a variant; `activation` because the released networks run ReLU, and §3.1 says SiLU."""
    published = VARIANTS[name]
    return {
        "num_classes": whole(1000),
        "in_channels": whole(3),
        "activation": word("relu", "silu"),
        "planes": wholes(published["planes"]),
        "drop_rate": fraction(published.get("drop_rate", 0.0)),
    }


class ParNet(nn.Module):
    """ParNet (Non-deep Networks §3.3, Table A1), for heights and widths that are multiples of 32.

    Args:
        planes: channels of the three streams, the third an even number, and of the last block.
        activation: "relu", as released, or "silu", as the paper says.
        num_classes: of the classifier.
        in_channels: of the input.
        drop_rate: of the dropout before the classifier, while training.
        deploy: build the deploy form, one 3×3 conv with a bias in each block.

    Raises:
        ValueError: the third of `planes` does not split into the two groups of a fusion.
    """

    def __init__(
        self,
        planes: Sequence[int],
        *,
        activation: str = "relu",
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        p0, p1, p2, p3 = planes
        if p2 % 2:
            raise ValueError(f"planes are {list(planes)}, but a fusion has 2 groups; make the third an even number")

        def block(channels: int, width: int, stride: int, groups: int = 1) -> nn.Sequential:
            branches = Branches(channels, width, stride, groups, activation=activation, deploy=deploy)
            return nn.Sequential(OrderedDict(block=branches))

        def fusion(channels: int, width: int, stride: int) -> tuple[nn.Module, nn.Module, nn.Module]:
            return NormPair(channels), Interleave(), block(2 * channels, width, stride, groups=2)

        stem = min(64, p0)
        self.inits = nn.ModuleList(
            [
                nn.Sequential(block(in_channels, stem, 2), block(stem, p0, 2)),
                block(p0, p1, 2),
                block(p1, p2, 2),
            ]
        )
        self.streams = nn.ModuleList(
            nn.Sequential(*(block(width, width, 1) for _ in range(blocks)))
            for blocks, width in zip(STREAM_BLOCKS, (p0, p1, p2), strict=True)
        )
        self.downsamples_2 = nn.ModuleList([block(p0, p1, 2), nn.Sequential(*fusion(p1, p2, 2))])
        self.combine = nn.Sequential(*fusion(p2, p2, 1), block(p2, p3, 2))
        self.head = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                drop=nn.Dropout(drop_rate),
                fc=nn.Linear(p3, num_classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] → logits [N, num_classes]."""
        x0 = self.inits[0](x)
        x1 = self.inits[1](x0)
        x2 = self.inits[2](x1)
        y0, y1, y2 = (stream(x) for stream, x in zip(self.streams, (x0, x1, x2), strict=True))
        fused = self.downsamples_2[0](y0)
        fused = self.downsamples_2[1]((y1, fused))
        return self.head(self.combine((y2, fused)))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """The three blocks of ParNet in one: what it is follows from its shapes.

    Stride 1 and as many channels out as in, the RepVGG-SSE block (Non-deep Networks §3.1):
        y = act(c(x) + s·σ(W·GAP(s))),  s = BN(x),  c(x) = BN(w3*x) + BN(w1*x)
    Otherwise a down-sampling block, or with 2 groups a fusion block followed by a channel shuffle (§3.2):
        y = act(c(x)·2σ(W·GAP(x))),  at stride 2 with c(x) = BN(w3*x) + BN(w1*avgpool(x))

    Deploy form: c(x) = w*x + b, all else as it is.
    """

    def __init__(
        self, channels: int, width: int, stride: int, groups: int = 1, *, activation: str, deploy: bool
    ) -> None:
        super().__init__()
        self.groups, self.deploy = groups, deploy
        self.nonlinearity = ACTIVATIONS[activation]()
        self.rbr_identity = nn.BatchNorm2d(channels) if (channels, stride) == (width, 1) else None
        if deploy:
            self.rbr_dense: nn.Module = nn.Conv2d(channels, width, 3, stride, padding=1, groups=groups)
        else:
            self.rbr_dense = conv_norm(channels, width, 3, stride, groups)
            self.rbr_1x1 = conv_norm(channels, width, 1, 1, groups)
            if stride == 2:
                self.rbr_1x1 = nn.Sequential(nn.AvgPool2d(2), self.rbr_1x1)
        gate = OrderedDict(conv=nn.Conv2d(channels, width, 1, groups=groups, bias=False), act=nn.Sigmoid())
        self.se = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), cvsig=nn.Sequential(gate)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, width, H / stride, W / stride]."""
        y = self.rbr_dense(x)
        if not self.deploy:
            y = y + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            skip = self.rbr_identity(x)
            y = y + skip * self.se(skip)
        else:
            y = y * (2 * self.se(x))
        y = self.nonlinearity(y)
        return y if self.groups == 1 else shuffle(y, self.groups)


class NormPair(nn.Module):
    """A norm for each of the two streams that a fusion takes, keys `b1.*` and `b2.*`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.b1, self.b2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Two of [N, C, H, W] in, the same out."""
        return self.b1(pair[0]), self.b2(pair[1])


class Interleave(nn.Module):
    """Concatenates two streams channel by channel: a0, b0, a1, b1 and so on."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Two of [N, C, H, W] → [N, 2C, H, W]."""
        return shuffle(torch.cat(pair, dim=1), groups=2)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel (g, c) of `groups` × C / groups goes to (c, g); the same shape out."""
    n, channels, height, width = x.shape
    x = x.reshape(n, groups, channels // groups, height, width)
    return x.transpose(1, 2).flatten(1, 2)
