"""Small constants survive the exporter: what keeps a square root, a logarithm and a quotient finite."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.onnx_file.file import write
from plainconv.exporter.surgery import run_passes
from plainconv.exporter.to_onnx.export import graph_from_module

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "deviation": lambda x: (x - x.mean(2, keepdim=True)).square().mean((2, 3)).add(1e-8).sqrt(),
    "pixel norm": lambda x: x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt(),
    "logarithm": lambda x: (x.relu() + 1e-12).log(),
    "quotient": lambda x: x / (x.abs().sum(1, keepdim=True) + 1e-12),
    "difference": lambda x: (x.abs() - 1e-9).sign(),
    "nearly 1": lambda x: (x * 1.000001 - x) * 1e6,
    "nearly 1 below": lambda x: (x / 1.000001 - x) * 1e6,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_small_constant_is_kept(name: str, tmp_path: Path) -> None:
    """Given an image half of zeros -> what eager gives, before and after surgery."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return FUNCTIONS[name](x * 2)

    x = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    x[:, :, :, 3:] = 0
    with torch.no_grad():
        wanted = Net()(x).numpy()
    graph = graph_from_module(Net().eval(), x)
    for after in (False, True):
        if after:
            run_passes(graph)
        write(graph, tmp_path / "net.onnx")
        (found,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"input": x.numpy()})
        assert np.isfinite(wanted).all()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6 if "nearly" not in name else 0.3)


def test_what_does_nothing_is_still_removed() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x * 1.0 + 0.0)

    graph = graph_from_module(Net().eval(), torch.zeros(1, 3, 4, 4))
    run_passes(graph)
    assert [node.op for node in graph.nodes] == ["Relu"]
