"""Tensors that are no weights, and large ones of few numbers."""

import pytest
import torch

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
    problem = problem_of({"first": sick, "second": sick, "fine": torch.ones(2, dtype=dtype)})
    assert problem is not None
    assert "2 of 3 tensors hold NaN or inf (first: first)" in problem
    assert "before the training diverged" in problem


def test_empty_tensors_and_integers_are_weights_too() -> None:
    assert not problem_of({"none": torch.empty(0), "index": torch.tensor([1, 2]), "mask": torch.tensor([True])})


def test_sparse_tensor() -> None:
    assert "entry a is a quantized, sparse" in str(problem_of({"a": torch.ones(2).to_sparse()}))


@pytest.mark.parametrize("shape", [(2**31,), (2**20, 2**20), (2**40, 3)])
def test_expanded_tensors_cost_what_they_store(shape: tuple[int, ...]) -> None:
    assert not problem_of({"a": torch.ones(()).expand(shape)})
    assert "NaN" in str(problem_of({"a": torch.full((), torch.nan).expand(shape)}))


def test_elements_that_overlap_are_refused() -> None:
    windows = torch.ones(2**16).as_strided((2**15, 2**15), (1, 1))
    assert "entry a has 1073741824 elements over 262144 bytes" in str(problem_of({"a": windows}))
