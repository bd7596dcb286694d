"""The series activation (VanillaNet §3.2): one activation that looks at a pixel's neighbours."""

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6  # of every batch norm of VanillaNet


class SeriesActivation(nn.Module):
    """A_s(x)[h,w,c] = Σ_{i,j ∈ −n..n} a[i,j,c]·A(x[h+i,w+j,c] + b[c]), A = ReLU (VanillaNet eq. 6; eq. 5 is n = 0).

    A depthwise (2n+1)×(2n+1) conv over ReLU(x). The published networks leave out b and norm the sum instead.

    Training form: `weight` [C, 1, 2n+1, 2n+1] and the batch norm `bn` behind the conv.
    Deploy form: `weight`, and the `bias` [C] that the norm became.

    Args:
        channels: C.
        order: n, at least 0.
        deploy: build the deploy form.
    """

    def __init__(self, channels: int, order: int = 3, *, deploy: bool = False) -> None:
        super().__init__()
        self.channels, self.order = channels, order
        self.weight = nn.Parameter(torch.empty(channels, 1, 2 * order + 1, 2 * order + 1))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(channels)) if deploy else None
        self.bn = None if deploy else nn.BatchNorm2d(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] in, the same shape out."""
        series = functional.conv2d(functional.relu(x), self.weight, self.bias, padding=self.order, groups=self.channels)
        return series if self.bn is None else self.bn(series)

    def extra_repr(self) -> str:
        """Show channels and order in `print(network)`."""
        return f"{self.channels}, order={self.order}"
