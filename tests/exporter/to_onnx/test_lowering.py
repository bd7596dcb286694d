import pytest
import torch
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from plainconv.exporter.errors import ExportError
from plainconv.exporter.to_onnx.lowering import (
    adaptive_windows,
    lower,
    needs_lowering,
    pool_from_adaptive,
    pool_windows,
)


def traced(module: nn.Module, x: torch.Tensor) -> fx.GraphModule:
    program = torch.export.export(module.eval(), (x,)).module(check_guards=False)
    assert isinstance(program, fx.GraphModule)
    return program


@settings(deadline=None)
@given(size_in=st.integers(1, 300), size_out=st.integers(1, 80))
def test_the_windows_of_the_pool_are_the_adaptive_ones_one_by_one(size_in: int, size_out: int) -> None:
    pool = pool_from_adaptive(size_in, size_out)
    if pool is None:
        return
    found, wanted = pool_windows(size_in, pool), adaptive_windows(size_in, size_out)
    assert len(found) == size_out
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a == b, f"window {i}"
    assert pool.pad_begin == pool.pad_end <= pool.kernel / 2


@settings(deadline=None)
@given(size_in=st.integers(1, 24), size_out=st.integers(1, 24))
def test_where_no_pool_is_found_none_has_these_windows(size_in: int, size_out: int) -> None:
    if pool_from_adaptive(size_in, size_out) is not None:
        return
    wanted = adaptive_windows(size_in, size_out)
    for kernel in range(1, size_in + 1):
        for stride in range(1, size_in + 1):
            for pad in range(kernel // 2 + 1):
                windows = [(max(0, i * stride - pad), min(size_in, i * stride - pad + kernel)) for i in range(size_out)]
                assert windows != wanted, (kernel, stride, pad)


@settings(deadline=None)
@given(size_in=st.integers(1, 60), size_out=st.integers(1, 60))
def test_adaptive_windows_are_those_of_torch(size_in: int, size_out: int) -> None:
    x = torch.arange(size_in, dtype=torch.float64).reshape(1, 1, size_in)
    ends = F.adaptive_max_pool1d(x, size_out)[0, 0] + 1
    starts = -F.adaptive_max_pool1d(-x, size_out)[0, 0]
    assert adaptive_windows(size_in, size_out) == list(zip(starts.int().tolist(), ends.int().tolist(), strict=True))


@pytest.mark.parametrize(
    ("sizes", "pool"),
    [
        ((75, 38), (3, 2, 1, 1)),
        ((38, 19), (2, 2, 0, 0)),
        ((19, 10), (3, 2, 1, 1)),
        ((9, 9), (1, 1, 0, 0)),
        ((7, 1), (7, 7, 0, 0)),
    ],
)
def test_the_pools_of_vanillanet_13_x1_5_ada_pool(sizes: tuple[int, int], pool: tuple[int, ...]) -> None:
    assert pool_from_adaptive(*sizes) == pool


def test_the_paper_s_75_to_40_has_no_ordinary_pool() -> None:
    assert pool_from_adaptive(75, 40) is None


SIZES = [((75, 75), (38, 38)), ((75, 38), (40, 19)), ((8, 5), (3, 7)), ((6, 6), (6, 6)), ((9, 4), (1, 1))]


@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
@pytest.mark.parametrize("kind", [nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d])
def test_a_lowered_pool_computes_the_same_and_the_module_is_left(kind, size_in, size_out) -> None:
    x = torch.randn(2, 3, *size_in, dtype=torch.float64)
    module = nn.Sequential(nn.Conv2d(3, 3, 1), kind(size_out)).double()
    for given_module in (traced(module, x), fx.symbolic_trace(module.eval())):
        wanted, code = given_module(x), given_module.code
        lowered = lower(given_module, (x,))
        assert not needs_lowering(lowered)
        exact = kind is nn.AdaptiveMaxPool2d
        torch.testing.assert_close(lowered(x), wanted, rtol=0 if exact else 1e-13, atol=0 if exact else 1e-13)
        assert given_module.code == code
        shared = {p.data_ptr() for p in lowered.parameters()}
        assert shared == {p.data_ptr() for p in given_module.parameters()}


@settings(max_examples=examples(25), deadline=None)
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20)), out=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_any_adaptive_max_pool_is_lowered_exactly(size: tuple[int, int], out: tuple[int, int]) -> None:
    class Functional(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.adaptive_max_pool2d(x, out)

    x = torch.randn(1, 2, *size)
    assert torch.equal(lower(fx.symbolic_trace(Functional()), (x,))(x), F.adaptive_max_pool2d(x, out))


def test_the_mean_of_the_whole_map_is_left_alone() -> None:
    x = torch.randn(1, 3, 6, 5)
    assert not needs_lowering(traced(nn.AdaptiveAvgPool2d(1), x))
    assert not needs_lowering(traced(nn.AdaptiveAvgPool2d((1, 1)), x))
    assert needs_lowering(traced(nn.AdaptiveAvgPool2d((1, 2)), x))


def test_an_open_size_is_refused_in_one_line() -> None:
    axes = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.export.export(nn.AdaptiveMaxPool2d(3).eval(), (torch.randn(1, 2, 9, 9),), dynamic_shapes=(axes,))
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    with pytest.raises(ExportError, match="fix the input's H and W") as raised:
        lower(module, (torch.randn(1, 2, 9, 9),))
    assert "\n" not in str(raised.value)


def test_indices_that_are_used_are_refused() -> None:
    class Indices(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values, indices = F.adaptive_max_pool2d(x, 3, return_indices=True)
            return values + indices

    x = torch.randn(1, 2, 9, 9)
    with pytest.raises(ExportError, match="indices"):
        lower(traced(Indices(), x), (x,))
