"""A network is traced at one size where that says what it does at any; its plain network is right at all of them."""

import sys

import hypothesis
import pytest
import torch
from examples import examples
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from plainconv.exporter.reparam import reparameterize
from plainconv.exporter.reparam.openness import SizeDependentError, follow_open_axes

TRACE = sys.modules["plainconv.exporter.reparam.trace"]
CHANNELS = 4
SIZES = ((1, 4, 16, 16), (2, 4, 17, 20), (3, 4, 32, 24), (1, 4, 9, 9))


class Block(nn.Module):
    """A convolution and norm, then a function of the map and of what the convolution reads."""

    def __init__(self, call) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS))
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.conv(x), x)


FREE = {
    "residual": lambda y, x: F.relu(y + x),
    "gate": lambda y, x: x * y.mean((2, 3), keepdim=True).sigmoid(),
    "pool gate": lambda y, x: y * F.adaptive_avg_pool2d(x, 1),
    "halved": lambda y, x: F.max_pool2d(y, 3, 2, 1) + F.avg_pool2d(x, 1, 2),
    "shuffled": lambda y, x: y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    "swapped": lambda y, x: torch.cat([part.relu() for part in y.chunk(2, 1)][::-1], 1),
    "cropped": lambda y, x: y[:, :, 1:-1, 1:] + x[:, :, 1:-1, :-1],
    "channels last": lambda y, x: y.permute(0, 2, 3, 1).mul(torch.arange(4.0)).permute(0, 3, 1, 2),
    "normalized": lambda y, x: F.layer_norm(y.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
    "resized": lambda y, x: F.interpolate(y, scale_factor=2.0),
}
BOUND = {
    "a view of sizes": lambda y, x: y.reshape(y.shape[0], 2, 2, *y.shape[2:]).flatten(1, 2),
    "a view of numbers": lambda y, x: y.reshape(-1, 4, 4, 4).mean((0, 2, 3), keepdim=True) + x,
    "a branch": lambda y, x: y if y.shape[2] <= 16 else -y,
    "a branch on the batch": lambda y, x: y if len(y) < 3 else 2 * y,
    "a pool of the map": lambda y, x: y * F.avg_pool2d(x, x.shape[2:]),
    "a factor": lambda y, x: y * y.size(3) ** 0.5,
    "a resize": lambda y, x: F.interpolate(F.max_pool2d(y, 2), size=y.shape[2:]),
    "a crop to a number": lambda y, x: y[:, :, :16] + x[:, :, :16],
    "positions": lambda y, x: y + torch.arange(y.shape[3]),
    "parts that are counted": lambda y, x: y * len(y.split(8, 2)),
    "rows that are counted": lambda y, x: y * sum(1 for _ in x),
    "normalized over rows": lambda y, x: F.layer_norm(y, (16,)) + x,
    "rows": lambda y, x: torch.stack([row for row in y]),
}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """By which way each network was traced."""
    ways: list[str] = []
    for name in ("_at_one_size", "_by_symbols"):
        make = getattr(TRACE, name)

        def noted(*args, name=name, make=make):
            made = make(*args)
            ways.append(name)
            return made

        monkeypatch.setattr(TRACE, name, noted)
    return ways


def network(calls) -> nn.Module:
    """Blocks of those functions with statistics of their own, and a classifier."""
    torch.manual_seed(0)
    blocks = nn.Sequential(*(Block(call) for call in calls))
    for norm in (m for m in blocks.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return nn.Sequential(blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 3)).eval()


def holds_everywhere(net: nn.Module, example: Tensor) -> None:
    """Compare at every size that the module takes; the plain network may refuse one by its guard."""
    plain, report = reparameterize(net, example)
    for shape in SIZES:
        x = torch.randn(shape)
        try:
            want = net(x)
        except Exception:
            continue
        try:
            got = plain(x)
        except Exception:
            assert report.guards or list(shape) != list(example.shape)
            continue
        assert torch.allclose(got, want, atol=1e-4, rtol=1e-4), shape


@pytest.mark.parametrize("name", FREE)
def test_a_network_without_sizes_is_traced_at_one(name: str, taken: list[str]) -> None:
    holds_everywhere(network([FREE[name]]), torch.randn(1, 4, 16, 16))
    assert taken == ["_at_one_size"]


@pytest.mark.parametrize("name", BOUND)
def test_a_network_that_computes_with_sizes_is_traced_with_symbols(name: str, taken: list[str]) -> None:
    holds_everywhere(network([BOUND[name]]), torch.randn(1, 4, 16, 16))
    assert taken == ["_by_symbols"]


@pytest.mark.parametrize("name", ["a view of sizes", "a branch", "a resize", "positions"])
def test_sizes_that_are_read_and_not_asked_for_are_numbers(name: str) -> None:
    """Given a network that computes with sizes, wanted at one → Result its batch alone is open, and it is right."""
    net, x = network([BOUND[name]]), torch.randn(2, 4, 16, 16)
    plain, report = reparameterize(net, x, open_sizes=False)
    assert report.end_to_end is not None
    assert {shape[2:] for shape in report.end_to_end.shapes} == {(16, 16)}
    assert report.counts_after["norm"] == 0
    assert torch.allclose(plain(x), net(x), atol=1e-4, rtol=1e-4)


@hypothesis.settings(max_examples=examples(4), deadline=None)
@hypothesis.given(st.lists(st.sampled_from([*FREE.values(), *BOUND.values()]), min_size=2, max_size=4))
def test_whatever_a_network_does_it_stays_right(calls) -> None:
    net = network(calls)
    x = torch.randn(1, 4, 16, 16)
    try:
        net(x)
    except Exception:
        hypothesis.reject()
    holds_everywhere(net, x)


def test_a_map_of_one_pixel_is_not_taken_for_one_at_every_size(taken: list[str]) -> None:
    """Given a gate by a pool of numbers, 1×1 at this size → Result it still broadcasts, or refuses, at another."""
    holds_everywhere(network([lambda y, x: y * F.avg_pool2d(x, 16)]), torch.randn(1, 4, 16, 16))
    assert taken == ["_by_symbols"]


def test_a_table_of_one_size_is_not_taken_for_one_of_any(taken: list[str]) -> None:
    table = torch.randn(1, 4, 16, 16)
    holds_everywhere(network([lambda y, x: y + table]), torch.randn(1, 4, 16, 16))
    assert taken == ["_by_symbols"]


def test_both_ways_give_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [FREE[name] for name in ("residual", "gate", "halved", "shuffled", "swapped")]
    net, x = network(calls), torch.randn(1, 4, 32, 32)
    plain, report = reparameterize(net, x)
    monkeypatch.setattr(TRACE, "_at_one_size", lambda *args: 1 / 0)
    other, reported = reparameterize(net, x)
    assert [str(n.target) for n in plain.graph.nodes] == [str(n.target) for n in other.graph.nodes]
    assert (report.counts_after, report.macs_after) == (reported.counts_after, reported.macs_after)
    assert torch.allclose(plain(x), other(x), atol=1e-6)


def test_an_unknown_op_is_not_followed() -> None:
    program = torch.export.export(
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.LPPool2d(2, 2)).eval(), (torch.randn(2, 4, 8, 8),)
    )
    with pytest.raises(SizeDependentError):
        follow_open_axes(program.module().graph, [(True, False, True, True)], 0)
