"""Lazy layers get their shapes, and random weights, from one run."""

import pytest
import torch
from torch import nn

from plainconv.exporter.errors import SourceError
from plainconv.exporter.source.lazy import materialize
from plainconv.exporter.source.signature import call_of_tensor


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2)).eval()


def test_lazy_layers_get_the_same_weights_from_the_same_seed() -> None:
    one, other, x = lazy(), lazy(), torch.zeros(1, 3, 6, 6)
    state = torch.random.get_rng_state()
    (warning,) = materialize(one, call_of_tensor(x), 3, "")
    materialize(other, call_of_tensor(x), 3, "")
    assert torch.equal(state, torch.random.get_rng_state())
    assert "0.weight" in warning and "random, seed 3" in warning
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_network_without_lazy_layers_is_not_run() -> None:
    assert materialize(nn.Linear(5, 1), call_of_tensor(torch.zeros(1, 3, 6, 6)), 0, "") == ()


def test_an_input_that_does_not_fit_is_named() -> None:
    with pytest.raises(SourceError, match=r"0.weight is lazy, and an input of shape 1,3,2,2 .*--input-shape"):
        materialize(lazy(), call_of_tensor(torch.zeros(1, 3, 2, 2)), 0, "give one: --input-shape N,C,H,W")
