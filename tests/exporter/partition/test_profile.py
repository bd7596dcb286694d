"""Node → seconds on this machine."""

import onnx_ir as ir
import pytest

from plainconv.exporter.errors import PlanError
from plainconv.exporter.partition import (
    measured_profile,
    network_of_model,
    profile_of_wiring,
    read_model,
    wiring_of,
)
from plainconv.exporter.partition.profile import random_inputs


def test_every_node_has_a_time(nets, tmp_path):
    """Given a network with an open batch → each node by its name, in seconds, and the planner takes them."""
    path = tmp_path / "net.onnx"
    ir.save(nets.parallel(2, 2, batch="n"), path)
    measured = measured_profile(path, axes={"n": 2})
    model = read_model(path)
    wiring = wiring_of(model)
    profile = profile_of_wiring(measured, wiring)
    assert profile.keys() == {op.name for op in wiring.ops}
    assert all(0 < seconds < 60 for name, seconds in profile.items() if name.startswith("conv"))
    network = network_of_model(model, profile=profile, axes={"n": 2})
    assert {name: cost.alone for name, cost in network.machine.costs.items()} == pytest.approx(profile)


def test_file_that_does_not_run(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(PlanError, match=r"net\.onnx cannot be measured") as error:
        measured_profile(path)
    assert "\n" not in str(error.value)


def test_inputs_of_every_type():
    """Given tensors of several types and an open axis → arrays of these types and sizes, the same for a seed."""

    class Tensor:
        def __init__(self, name, kind, shape):
            self.name, self.type, self.shape = name, f"tensor({kind})", shape

    tensors = [
        Tensor("a", "float", ["n", 3]),
        Tensor("b", "int64", [2]),
        Tensor("c", "float16", [None, 1]),
        Tensor("d", "bool", [1]),
    ]
    found = random_inputs(tensors, {"n": 4}, 0)
    assert [(x.dtype.name, x.shape) for x in found.values()] == [
        ("float32", (4, 3)), ("int64", (2,)), ("float16", (1, 1)), ("bool", (1,)),
    ]  # fmt: skip
    assert (random_inputs(tensors, {"n": 4}, 0)["a"] == found["a"]).all()
