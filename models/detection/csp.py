"""Blocks of YOLOv4-CSP and YOLOR (Wang et al., 2021), under the names of their published parts."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-3
POOLS = (5, 9, 13)


class Conv(nn.Module):
    """SiLU(BN(w*x)), padded to keep the size at stride 1."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, width, ⌈H / stride⌉, ⌈W / stride⌉]."""
        return functional.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """A 1×1 and a 3×3 conv, and a skip around both if asked for; the same shape out."""

    def __init__(self, channels: int, *, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.cv1, self.cv2 = Conv(channels, channels, 1), Conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] in, the same shape out."""
        y = self.cv2(self.cv1(x))
        return x + y if self.skip else y  # type: ignore[no-any-return]


class CSP(nn.Module):
    """Cross stage partial: n blocks on half the channels, the other half around them (YOLOR's BottleneckCSP).

    y = cv4(SiLU(BN([cv3(m(cv1(x))), cv2(x)])))

    Args:
        channels: in.
        width: out.
        n: blocks.
        block: makes one from its channels; a bottleneck with a skip if not given.
    """

    def __init__(self, channels: int, width: int, n: int = 1, block: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        half = width // 2
        self.cv1, self.cv2 = Conv(channels, half, 1), nn.Conv2d(channels, half, 1, bias=False)
        self.cv3, self.cv4 = nn.Conv2d(half, half, 1, bias=False), Conv(2 * half, width, 1)
        self.bn = norm(2 * half)
        self.m = nn.Sequential(*(block(half) if block else Bottleneck(half, skip=True) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, width, H, W]."""
        both = torch.cat([self.cv3(self.m(self.cv1(x))), self.cv2(x)], 1)
        return self.cv4(functional.silu(self.bn(both)))  # type: ignore[no-any-return]


class CSP2(nn.Module):
    """The same split behind the first conv (BottleneckCSP2): x1 = cv1(x), y = cv3(SiLU(BN([m(x1), cv2(x1)])))."""

    def __init__(self, channels: int, width: int, n: int = 1) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, width, 1), nn.Conv2d(width, width, 1, bias=False)
        self.cv3, self.bn = Conv(2 * width, width, 1), norm(2 * width)
        self.m = nn.Sequential(*(Bottleneck(width, skip=False) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, width, H, W]."""
        x = self.cv1(x)
        return self.cv3(functional.silu(self.bn(torch.cat([self.m(x), self.cv2(x)], 1))))  # type: ignore[no-any-return]


class SPPCSP(nn.Module):
    """Max pools of three sizes beside each other, in a cross stage partial of its own."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, width, 1), nn.Conv2d(channels, width, 1, bias=False)
        self.cv3, self.cv4 = Conv(width, width, 3), Conv(width, width, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in POOLS)
        self.cv5, self.cv6 = Conv((len(POOLS) + 1) * width, width, 1), Conv(width, width, 3)
        self.bn, self.cv7 = norm(2 * width), Conv(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, width, H, W]."""
        deep = self.cv4(self.cv3(self.cv1(x)))
        deep = self.cv6(self.cv5(torch.cat([deep, *(pool(deep) for pool in self.m)], 1)))
        return self.cv7(functional.silu(self.bn(torch.cat([deep, self.cv2(x)], 1))))  # type: ignore[no-any-return]


class DownC(nn.Module):
    """Half the size: a conv of stride 2 beside a max pool (YOLOR)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels, 1), Conv(channels, width // 2, 3, 2)
        self.cv3, self.mp = Conv(channels, width // 2, 1), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, width, H / 2, W / 2]."""
        return torch.cat([self.cv2(self.cv1(x)), self.cv3(self.mp(x))], 1)


class Implicit(nn.Module):
    """A learned number for each channel, added or multiplied (YOLOR §4): key `implicit`."""

    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.full((1, channels, 1, 1), value))


class IDetect(nn.Module):
    """The head: a 1×1 conv for each level, a learned shift before and a learned scale behind it, then boxes.

    xy = (2σ − ½ + cell)·stride, wh = (2σ)²·anchor, objectness and classes σ.

    Args:
        num_classes: of the detections.
        anchors: w h of three at each place, for each level, in pixels.
        widths: channels of the levels.
        strides: of the levels.
    """

    anchors: Tensor
    anchor_grid: Tensor

    def __init__(
        self,
        num_classes: int,
        anchors: Sequence[Sequence[int]],
        widths: Sequence[int],
        strides: Sequence[int] = (8, 16, 32),
    ) -> None:
        super().__init__()
        self.strides, self.numbers = tuple(strides), num_classes + 5
        pixels = torch.tensor(anchors, dtype=torch.float32).reshape(len(widths), -1, 2)
        places = pixels.shape[1]
        self.register_buffer("anchors", pixels / torch.tensor(strides)[:, None, None])
        self.register_buffer("anchor_grid", pixels.reshape(len(widths), 1, places, 1, 1, 2))
        self.m = nn.ModuleList(nn.Conv2d(width, self.numbers * places, 1) for width in widths)
        self.ia = nn.ModuleList(Implicit(width, 0.0) for width in widths)
        self.im = nn.ModuleList(Implicit(self.numbers * places, 1.0) for width in widths)

    def raw(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels [B, width, h, w] → [B, 3·(classes + 5), h, w] each."""
        return [
            im.implicit * conv(x + ia.implicit)  # type: ignore[operator]
            for x, conv, ia, im in zip(levels, self.m, self.ia, self.im, strict=True)
        ]

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels [B, width, h, w] → [B, N, classes + 5]: centre, width, height, objectness, classes; 3·h·w of each."""
        decoded = []
        for i, x in enumerate(self.raw(levels)):
            batch, _, height, width = x.shape
            y = x.reshape(batch, -1, self.numbers, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            columns = torch.arange(width, dtype=x.dtype, device=x.device)[None].expand(height, width)
            lines = torch.arange(height, dtype=x.dtype, device=x.device)[:, None].expand(height, width)
            centre = (y[..., :2] * 2 - 0.5 + torch.stack([columns, lines], -1)) * self.strides[i]
            size = (y[..., 2:4] * 2) ** 2 * self.anchor_grid[i]
            decoded.append(torch.cat([centre, size, y[..., 4:]], -1).reshape(batch, -1, self.numbers))
        return torch.cat(decoded, 1)


def norm(channels: int) -> nn.BatchNorm2d:
    """Make a norm with YOLOR's eps."""
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=0.03)
