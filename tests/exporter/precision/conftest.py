"""Small float32 graphs as text, and what is asked of every graph made from them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from places import ASSETS

from plainconv.exporter.onnx_file.ir_graph import settled
from plainconv.exporter.parity import Reference, reference_from_module
from plainconv.exporter.pipeline.export import Job, export_bundle
from plainconv.exporter.source.network import Request
from plainconv.exporter.source.resolve import load_network


def filled(weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Shapes filled with seeded normal numbers over the root of the fan-in; arrays as they are."""
    rng = np.random.default_rng(7)
    arrays = {}
    for name, value in weights.items():
        if isinstance(value, tuple):
            fan_in = np.prod(value[1:]) if len(value) > 1 else 1
            value = rng.standard_normal(value).astype(np.float32) / np.sqrt(fan_in)
        arrays[name] = np.asarray(value, np.float32) if np.asarray(value).dtype == np.float64 else np.asarray(value)
    return arrays


def made_graph(text: str, weights: Mapping[str, Any] = {}, opset: int = 22) -> ir.Model:
    """`text` in ONNX's text syntax; `weights` are shapes, filled with seeded normal numbers, or arrays."""
    domains = f'["" : {opset}, "other" : 1]'
    proto = onnx.parser.parse_model(f"<ir_version: 10, opset_import: {domains}> g {text}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in filled(weights).items())
    return settled(ir.serde.deserialize_model(proto))


def checked_proto(model: ir.Model) -> onnx.ModelProto:
    """`model` as ONNX, once the checker takes it, with its inference of types, and no node's name is there twice."""
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    names = Counter(node.name for node in proto.graph.node)
    assert max(names.values()) == 1, names
    return proto


def run_graph(model: ir.Model, *arrays: np.ndarray) -> list[np.ndarray]:
    """All outputs by ONNX Runtime, nothing optimized."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    return list(session.run(None, dict(zip(names, arrays, strict=True))))


def graph_signature(model: ir.Model) -> list[tuple[str, ir.DataType, list[Any]]]:
    """Names, types and shapes of the inputs and outputs."""
    values = [*model.graph.inputs, *model.graph.outputs]
    return [(str(v.name), v.dtype, list(v.shape)) for v in values]


@pytest.fixture(scope="session")
def made() -> Callable[..., ir.Model]:
    return made_graph


@pytest.fixture(scope="session")
def checked() -> Callable[[ir.Model], onnx.ModelProto]:
    return checked_proto


@pytest.fixture(scope="session")
def outputs() -> Callable[..., list[np.ndarray]]:
    return run_graph


@pytest.fixture(scope="session")
def signature() -> Callable[[ir.Model], Sequence[Any]]:
    return graph_signature


@pytest.fixture(scope="session")
def op_of() -> Callable[[ir.Model, str], ir.Node]:
    """The one node of a type, or of a name."""

    def find(model: ir.Model, name: str) -> ir.Node:
        (node,) = [n for n in model.graph if name in (n.op_type, n.name)]
        return node

    return find


def reference_of(path: Path, images: np.ndarray | None = None) -> Reference:
    """The ONNX file at `path` in float64, on random images, edges and `images`."""
    network = load_network(str(path), Request())
    return reference_from_module(network.module, network.example, data=images)


@pytest.fixture(scope="session")
def reference_from_onnx() -> Callable[..., Reference]:
    return reference_of


@dataclass(frozen=True)
class Digits:
    """A trained network as plain ONNX, held-out images, their labels and classes in float64, a reference on some."""

    path: Path
    images: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    reference: Reference


@pytest.fixture(scope="session", params=["vanillanet_digits", pytest.param("parnet_digits", marks=pytest.mark.slow)])
def digits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    checkpoint = ASSETS / f"{request.param}.pth"
    job = Job(request.param, Request(checkpoint=checkpoint), tmp_path_factory.mktemp("d") / "b", end_to_end=False)
    path = export_bundle(job) / "model.onnx"
    with np.load(ASSETS / "digits_heldout.npz") as held:
        images, labels = held["images"][::2], held["labels"][::2]
    module = load_network(str(path), Request()).module.double()
    with torch.no_grad():
        classes = np.concatenate([module(torch.from_numpy(x[None]).double()).argmax(1).numpy() for x in images])
    return Digits(path, images, labels, classes, reference_of(path, images[:32]))
