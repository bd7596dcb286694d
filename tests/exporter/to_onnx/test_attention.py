"""Attention over tokens of any rank: the file gives what torch does."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plainconv.exporter.to_onnx.export import onnx_from_module

MASKS = {
    "none": None,
    "two axes": torch.arange(36).reshape(6, 6) % 5 != 0,
    "three axes": torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(1)),
}


class Attention(nn.Module):
    def __init__(self, shape: tuple[int, ...], mask: Tensor | None, *, causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shape, self.causal, self.project = shape, causal, nn.Linear(8, 24)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).reshape(-1, *self.shape, 24).chunk(3, -1)
        return functional.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.causal, scale=0.4).flatten(1)


def check(network: nn.Module, example: Tensor, other: Tensor, folder: Path, *, dynamic_batch: bool = False) -> None:
    path = onnx_from_module(network.eval(), example, folder / "net.onnx", dynamic_batch=dynamic_batch)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for x in (example, other):
        (found,) = session.run(None, {"input": x.numpy()})
        np.testing.assert_allclose(found, network(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "mask"),
    [((6,), "none"), ((6,), "three axes"), ((2, 3, 6), "two axes")]
    + [pytest.param(*each, marks=pytest.mark.slow) for each in (((6,), "two axes"), ((2, 3, 6), "none"))],
)
def test_of_another_rank(tmp_path: Path, shape: tuple[int, ...], mask: str) -> None:
    tokens = int(np.prod(shape))
    check(Attention(shape, MASKS[mask]), torch.randn(2, tokens, 8), torch.randn(2, tokens, 8), tmp_path)


@pytest.mark.parametrize("causal", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_at_an_open_batch(tmp_path: Path, causal: bool) -> None:
    check(
        Attention((6,), None, causal=causal), torch.randn(2, 6, 8), torch.randn(5, 6, 8), tmp_path, dynamic_batch=True
    )
