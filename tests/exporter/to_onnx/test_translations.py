"""A network of ops that have a translation each is not decomposed, and its file is the one that it had."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnxscript.function_libs.torch_lib import registration
from torch import Tensor, nn
from torch.nn import functional as F
from torch.onnx._internal.exporter import _fx_passes

from plainconv.exporter.onnx_file.file import write
from plainconv.exporter.to_onnx import export
from plainconv.exporter.to_onnx.export import graph_from_module

X = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(0))


class Calling(nn.Module):
    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.call = call
        self.conv, self.norm, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.call(self.norm(self.conv(x).relu() * 0.5))


def classified(x: Tensor) -> Tensor:
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), torch.ones(2, 4))


def shuffled(x: Tensor) -> Tensor:
    return x.reshape(1, 2, 2, 6, 8).transpose(1, 2).reshape(1, -1, 6, 8)


TRANSLATED: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {
    "a head": lambda x: [classified(x)],
    "a shuffle": lambda x: [shuffled(x)],
    "a shuffle of an axis taken apart": lambda x: [x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)],
    "parts": lambda x: [part.sigmoid() for part in x.split(2, 1)],
    "a sum of types": lambda x: [x + torch.arange(8) + 1],
    "results that are spelled otherwise": lambda x: [F.adaptive_avg_pool2d(x, 1), torch.flatten(x, 1)],
    "a pool with padding": lambda x: [F.silu(F.max_pool2d(x, 3, 2, 1)).softmax(1)],
}
DECOMPOSED: dict[str, Callable[[Tensor], Any]] = {
    "no translation": lambda x: F.hardshrink(x),
    "a view made of others": lambda x: x.movedim(1, 3) * 2,
}


def made(module: nn.Module, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Any, bool]:
    """The graph, and whether it was decomposed."""
    seen = []
    decompose = _fx_passes.decompose_with_registry
    with monkeypatch.context() as patch:
        patch.setattr(_fx_passes, "decompose_with_registry", lambda *a: (seen.append(a), decompose(*a))[1])
        known = registration.default_registry
        graph = graph_from_module(module.eval(), X, **options)
        assert registration.default_registry is known
    return graph, bool(seen)


def outputs(graph: Any, path: Path) -> list[np.ndarray]:
    write(graph, path)
    return list(onnxruntime.InferenceSession(path).run(None, {"input": X.numpy()}))


def test_nothing_is_decomposed_and_the_graph_is_the_same(monkeypatch: Any, tmp_path: Path) -> None:
    module = Calling(lambda x: [y for call in TRANSLATED.values() for y in call(x)]).eval()
    names = [f"y{i}" for i in range(len(module(X)))]
    graph, decomposed = made(module, monkeypatch, output_names=names)
    with monkeypatch.context() as patch:
        patch.setattr(export, "names_to_translate", lambda *_: None)
        usual, always = made(module, monkeypatch, output_names=names)
    assert (decomposed, always) == (False, True)
    ours, theirs = ([(n.op, {**n.attrs, "allowzero": 0}) for n in each.nodes] for each in (graph, usual))
    assert ours == theirs
    assert [(t.name, t.shape) for t in graph.outputs] == [(t.name, t.shape) for t in usual.outputs]
    for y, as_it_was in zip(outputs(graph, tmp_path / "a"), outputs(usual, tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(y, as_it_was)


@pytest.mark.parametrize("name", DECOMPOSED)
def test_what_has_no_translation_is_decomposed(name: str, monkeypatch: Any, tmp_path: Path) -> None:
    module = Calling(DECOMPOSED[name]).eval()
    graph, decomposed = made(module, monkeypatch)
    assert decomposed
    with torch.no_grad():
        np.testing.assert_allclose(outputs(graph, tmp_path / "a")[0], module(X).numpy(), atol=1e-6)


def test_a_network_of_an_open_batch_is_decomposed(monkeypatch: Any) -> None:
    assert made(Calling(classified), monkeypatch, dynamic_batch=True)[1]
