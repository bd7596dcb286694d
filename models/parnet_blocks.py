"""The blocks of ParNet (Non-deep Networks §3.1, §3.2), under the published names of their parts."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .repvgg import conv_norm

ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class Branches(nn.Module):
    """The three blocks of ParNet in one: what it is follows from its shapes.

    Stride 1 and as many channels out as in, the RepVGG-SSE block (Non-deep Networks §3.1):
        y = act(c(x) + s·σ(W·GAP(s))),  s = BN(x),  c(x) = BN(w3*x) + BN(w1*x)
    Otherwise a down-sampling block, or with 2 groups a fusion block followed by a channel shuffle (§3.2):
        y = act(c(x)·2σ(W·GAP(x))),  at stride 2 with c(x) = BN(w3*x) + BN(w1*avgpool(x))

    Deploy form: c(x) = w*x + b, all else as it is. Without gates, y = act(c(x) + s) and y = act(c(x)) (Table 7).
    """

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        groups: int = 1,
        *,
        activation: str,
        gates: bool = True,
        deploy: bool = False,
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
        self.se = gate(channels, width, groups) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, width, H / stride, W / stride]."""
        y = self.rbr_dense(x)
        if not self.deploy:
            y = y + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            skip = self.rbr_identity(x)
            y = y + (skip if self.se is None else skip * self.se(skip))
        elif self.se is not None:
            y = y * (2 * self.se(x))
        y = self.nonlinearity(y)
        return y if self.groups == 1 else shuffle(y, self.groups)


def gate(channels: int, width: int, groups: int = 1) -> nn.Sequential:
    """σ(W·GAP(x)), one layer of squeeze and excitation: [N, channels, H, W] → [N, width, 1, 1]."""
    excite = OrderedDict(conv=nn.Conv2d(channels, width, 1, groups=groups, bias=False), act=nn.Sigmoid())
    return nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), cvsig=nn.Sequential(excite)))


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
    x = x.unflatten(1, (groups, -1))  # type: ignore[no-untyped-call]
    return x.transpose(1, 2).flatten(1, 2)
