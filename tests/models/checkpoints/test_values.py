"""Tensors that are no weights, and large ones of few numbers."""

import pytest
import torch
from torch import nn

from plainconv.models.checkpoints.values import problem_of


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        *[(dtype, bad) for dtype in (torch.float32, torch.bfloat16) for bad in (torch.nan, torch.inf, -torch.inf)],
        *[(dtype, torch.nan) for dtype in (torch.float16, torch.float64, torch.float8_e4m3fn)],
    ],
)
def test_weights_that_are_not_finite(dtype: torch.dtype, bad: float) -> None:
    sick = torch.tensor([1.0, bad, 2.0]).to(dtype)
    problem = problem_of({"first": sick, "second": sick, "fine": torch.ones(2, dtype=dtype)}, {})
    assert problem is not None
    assert "2 of 3 tensors hold NaN or inf (first: first)" in problem
    assert "before the training diverged" in problem


def test_empty_tensors_and_integers_are_weights_too() -> None:
    assert not problem_of({"none": torch.empty(0), "index": torch.tensor([1, 2]), "mask": torch.tensor([True])}, {})


class Sharded(torch.Tensor):
    """Stands for a tensor whose numbers other processes hold."""


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (torch.ones(2).to_sparse(), "is sparse_coo; wanted dense numbers: save tensor.to_dense()"),
        (torch.empty(2, device="meta"), "is on the meta device"),
        (torch.ones(2).as_subclass(Sharded), "is a Sharded, whose numbers may lie elsewhere"),
        (torch.ones(2, dtype=torch.complex64), "holds complex64; wanted any float type"),
        (torch.ones(2, dtype=torch.int8), "holds int8"),
        (torch.ones(2, dtype=torch.bool), "holds bool"),
    ],
)
def test_what_is_no_dense_real_number(found: torch.Tensor, says: str) -> None:
    assert says in str(problem_of({"a": found}, {"a": nn.Parameter(torch.ones(2))}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_any_float_type_is_a_weight(dtype: torch.dtype) -> None:
    assert problem_of({"a": torch.ones(2).to(dtype)}, {"a": nn.Parameter(torch.ones(2))}) is None


def test_a_buffer_may_be_whole_numbers() -> None:
    assert problem_of({"anchors": torch.tensor([8, 16])}, {"anchors": torch.tensor([8.0, 16.0])}) is None


@pytest.mark.parametrize("shape", [(2**31,), (2**20, 2**20), (2**40, 3)])
def test_expanded_tensors_cost_what_they_store(shape: tuple[int, ...]) -> None:
    assert not problem_of({"a": torch.ones(()).expand(shape)}, {})
    assert "NaN" in str(problem_of({"a": torch.full((), torch.nan).expand(shape)}, {}))


def test_elements_that_overlap_are_refused() -> None:
    windows = torch.ones(2**16).as_strided((2**15, 2**15), (1, 1))
    assert "entry a has 1073741824 elements over 262144 bytes" in str(problem_of({"a": windows}, {}))
