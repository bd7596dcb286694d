from pathlib import Path

import numpy as np
import onnx
import torch
from torch import fx, nn

from plainconv.exporter.parity import first_divergence, origins_of, values_of_module, values_of_onnx


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval()


def traced(module: nn.Module, x: torch.Tensor) -> fx.GraphModule:
    program = torch.export.export(module, (x,)).module(check_guards=False)
    assert isinstance(program, fx.GraphModule)
    return program


def test_two_equal_networks_do_not_diverge() -> None:
    x = torch.randn(1, 3, 8, 8)
    wanted = values_of_module(traced(network(), x), (x,), float64=True)
    assert first_divergence(wanted, values_of_module(traced(network(), x), (x,)), 1e-5) is None


def test_the_first_value_that_differs_is_named_with_the_module_it_came_from() -> None:
    x = torch.randn(1, 3, 8, 8)
    good, bad = traced(network(), x), network()
    with torch.no_grad():
        bad[2].weight[0, 0, 0, 0] += 0.1
    wrong = traced(bad, x)

    found = first_divergence(
        values_of_module(good, (x,), float64=True), values_of_module(wrong, (x,)), 1e-5, origins_of(good)
    )

    assert found is not None
    assert found.name == "conv2d_1"
    assert found.origin == "2"
    assert "conv2d_1 (2)" in str(found)


def test_modules_are_compared_by_their_qualified_names_and_left_without_hooks() -> None:
    x, good, bad = torch.randn(1, 3, 8, 8), network(), network()
    with torch.no_grad():
        bad[2].bias += 1
    found = first_divergence(values_of_module(good, (x,), float64=True), values_of_module(bad, (x,)), 1e-5)
    assert found is not None
    assert found.name == "2"
    assert not any(part._forward_hooks for part in good.modules())


def test_values_that_only_one_side_has_are_passed_over_and_nan_diverges() -> None:
    wanted = {"a": np.ones(3), "b": np.ones((2, 2)), "c": np.ones(2), "n": np.ones(2)}
    found = {"x": np.zeros(3), "a": np.ones(3), "b": np.zeros(4), "n": np.array([1.0, np.nan]), "c": np.zeros(2)}
    divergence = first_divergence(wanted, found, 1e-5)
    assert divergence is not None
    assert divergence.name == "n"


def test_an_onnx_file_gives_every_value_by_name(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [make("Relu", ["x"], ["r"]), make("Add", ["r", "r"], ["s"]), make("Neg", ["s"], ["y"])]
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "g.onnx")
    values = values_of_onnx(tmp_path / "g.onnx", [np.array([-1.0, 2.0], np.float32)])
    assert list(values) == ["r", "s", "y"]
    assert np.array_equal(values["s"], [0, 4])
