"""Norms that a convolution or Linear takes over what lies between, and those that none can take."""

from collections.abc import Callable

import pytest
import torch
from collapse import check_collapse
from torch import Tensor, nn
from torch.nn import functional as F

from plainconv.exporter.reparam import Report


class Net(nn.Module):
    """A convolution and ReLU, then `forward_of` with the layers by name, on maps of 4 channels."""

    def __init__(self, forward_of: Callable[["Net", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.stem, self.forward_of = nn.Conv2d(4, 4, 3, padding=1), forward_of
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_of(self, F.relu(self.stem(x)))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def flat_norm(norm: nn.Module, x: Tensor) -> Tensor:
    return norm(x.flatten(0, 1)).reshape_as(x)


TAKEN = {
    "tokens by flatten": lambda n, x: flat_norm(n.norm, n.up(tokens(x))),
    "tokens by transpose": lambda n, x: n.norm(n.up(tokens(x)).transpose(1, 2)),
    "linear, permute": lambda n, x: n.norm2(n.up(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
    "permute, linear": lambda n, x: n.down(n.norm4(x).permute(0, 2, 3, 1)),
    "pool, linear": lambda n, x: n.down(F.adaptive_avg_pool2d(n.norm4(x), 1).flatten(1)),
    "mean, linear": lambda n, x: n.down(n.norm4(x).mean((2, 3))),
    "two readers": lambda n, x: (lambda t: n.up(t).sum(-1) + n.down(t).sum(-1))(tokens(n.norm4(x))),
    "concatenation": lambda n, x: n.norm2(torch.cat([n.conv(x), n.conv1(F.relu(n.conv(x)))], 1)),
    "sum": lambda n, x: n.norm4(n.conv(x) - 2 * n.conv1(F.max_pool2d(x, 3, 1, 1))),
    "scaled by a buffer": lambda n, x: n.norm4((n.conv(x) * n.stem.bias[:1] + n.stem.bias.sum()).flip(3)),
    "norm of a norm": lambda n, x: n.norm4(n.other(n.conv(x)).flip(3)),
    "residual tokens": lambda n, x: tokens(x) + flat_norm(n.norm0, n.down(F.gelu(flat_norm(n.norm, n.up(tokens(x)))))),
}


def layers(**more: nn.Module) -> dict[str, nn.Module]:
    return more | {
        "up": nn.Linear(4, 8),
        "down": nn.Linear(8 if "norm0" in more else 4, 4, bias=False),
        "norm": nn.BatchNorm1d(8),
        "norm2": nn.BatchNorm2d(8),
        "norm4": nn.BatchNorm2d(4),
        "other": nn.BatchNorm2d(4),
        "conv": nn.Conv2d(4, 4, 3, padding=1, bias=False),
        "conv1": nn.Conv2d(4, 4, 1),
    }


def left(report: Report) -> list[str]:
    return [r.node for r in report.refusals if "norm" in r.node]


@pytest.mark.parametrize("name", TAKEN)
def test_the_norm_goes_to_what_can_take_it(name: str) -> None:
    """Given a norm away from its Linear or convolution → Result none is left, at any size."""
    more = {"norm0": nn.BatchNorm1d(4)} if name == "residual tokens" else {}
    report = check_collapse(Net(TAKEN[name], **layers(**more)), (6, 5), (8, 7), (3, 9))
    assert report.counts_after["norm"] == 0 and report.counts_before["norm"] > 0 and not left(report)


STAY = {
    "a pad of zeros between": lambda n, x: n.norm4(F.pad(n.conv(x), (1, 0, 0, 1))),
    "read without it too": lambda n, x: (lambda y: n.norm4(y.flip(3)) + F.relu(y))(n.conv(x)),
    "channels of another axis": lambda n, x: n.norm4(n.down(x.transpose(1, 3)).transpose(2, 3)[:, :4, :, :]),
    "nothing makes it": lambda n, x: F.relu(n.norm4(x)),
    "a part that cannot": lambda n, x: n.norm2(torch.cat([n.conv(x), x], 1)),
    "groups of channels": lambda n, x: n.norm4(n.conv(x).unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)),
}


@pytest.mark.parametrize("name", STAY)
def test_a_norm_that_none_can_take_stays_and_says_so(name: str) -> None:
    report = check_collapse(Net(STAY[name], **layers()), (6, 6), (9, 6))
    assert report.counts_after["norm"] == 1 and len(left(report)) == 1
    assert f"({left(report)[0]})" in str(report)


def test_layer_scale_merges_into_the_linear_before_it() -> None:
    """Given γ·(W·x + b), γ along the last axis and, behind a permutation, the second → Result one Linear each."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 5)
            self.g, self.h = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(5, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = F.gelu(self.a(x.permute(0, 2, 3, 1)) * self.g)
            return F.relu(self.b(y).permute(0, 3, 1, 2) * self.h)

    report = check_collapse(Scaled(), (5, 4), (3, 7))
    assert [len(region.merged) for region in report.regions] == [2, 2]


def test_linears_over_tokens_with_nothing_between_become_one() -> None:
    chain = nn.Sequential(nn.Linear(4, 9), nn.Dropout(), nn.Linear(9, 3))
    net = Net(lambda n, x: torch.tanh(n.chain(tokens(x))), chain=chain)
    report = check_collapse(net, (6, 5), (3, 4))
    assert report.counts_after["linear"] == 1 and report.macs_after < report.macs_before
