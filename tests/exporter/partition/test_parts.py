"""Parts as files: their inputs and outputs, and that they recompose to the whole, to the last bit in float32."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from plainconv.exporter.errors import CheckFailedError, PlanError
from plainconv.exporter.partition import (
    Device,
    Part,
    Plan,
    check_recomposed,
    network_of_model,
    parts_of_plan,
    propose,
    read_model,
    recomposed,
    write_parts,
)

SLOW = Device("slow", {"fp32": 1e9}, 1e12, part=1e-6, event=1e-6, lanes=1 << 18)


def split(model, tmp_path, **where):
    """The model as a file, the plan found for it, and the files of its parts."""
    whole = tmp_path / "whole.onnx"
    ir.save(model, whole)
    plan = propose(network_of_model(model, device=SLOW), **where).accepted()
    return whole, plan, write_parts(model, plan, tmp_path)


@pytest.mark.parametrize("where", [{"devices": 2}, {"devices": 3, "placement": "recompute"}, {"streams": 2}], ids=str)
@pytest.mark.parametrize("name", ["parallel", "hrnet", "inception"])
def test_parts_recompose_bit_by_bit(nets, tmp_path, name, where):
    """Given a branched network, on devices with and without recomputing and on streams → the very same bits."""
    model = {
        "parallel": lambda: nets.parallel(3, 2),
        "hrnet": lambda: nets.hrnet(1, size=32),
        "inception": lambda: nets.inception(2),
    }[name]()
    whole, plan, parts = split(model, tmp_path, **where)
    x = np.random.default_rng(0).standard_normal([n for n in model.graph.inputs[0].shape]).astype(np.float32)
    checks = check_recomposed(whole, parts, plan, [x])
    assert [check.difference for check in checks] == [0.0] * len(checks) and all(checks)
    for path in parts:
        onnx.checker.check_model(str(path), full_check=True)


def test_open_batch_stays_open(nets, tmp_path):
    """Given a batch without a size → each part has it, and they recompose at two of them."""
    model = nets.parallel(2, 2, batch="n")
    whole, plan, parts = split(model, tmp_path, devices=2)
    for path in parts:
        graph = onnx.load(path).graph
        assert all(v.type.tensor_type.shape.dim[0].dim_param for v in (*graph.input, *graph.output))
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 32, 32)).astype(np.float32)
        assert all(check_recomposed(whole, parts, plan, [x]))


TYPED = """({T}[1,8,16,16] x) => ({T}[1,8,16,16] y) {{
    s = Relu(x)
    a = Conv<pads=[1,1,1,1]>(s, w) b = Conv<pads=[1,1,1,1]>(a, w)
    c = Conv<pads=[1,1,1,1]>(s, w) d = Conv<pads=[1,1,1,1]>(c, w)
    y = Add(b, d)
}}"""


def test_half_precision_parts(made, tmp_path):
    """Given a float16 graph → float16 between its parts, and the whole's outputs within float16's rounding."""
    rng = np.random.default_rng(0)
    model = made(TYPED.format(T="float16"), w=(rng.standard_normal((8, 8, 3, 3)) / 9).astype(np.float16))
    whole, plan, parts = split(model, tmp_path, devices=2)
    types = {v.type.tensor_type.elem_type for path in parts for v in onnx.load(path).graph.input}
    assert types == {onnx.TensorProto.FLOAT16}
    x = rng.standard_normal((1, 8, 16, 16)).astype(np.float16)
    assert all(check_recomposed(whole, parts, plan, [x], tolerance=1e-2))


def test_quantized_parts(made, tmp_path):
    """Given Q/DQ at a cut → the integers cross it, and the parts recompose bit by bit."""
    text = """(float[1,8,16,16] x) => (float[1,8,16,16] y) {
        q = QuantizeLinear(x, s, z) e = DequantizeLinear(q, s, z) v = DequantizeLinear(w, s, z)
        a = Conv<pads=[1,1,1,1]>(e, v)
        c = Conv<pads=[1,1,1,1]>(e, v)
        y = Add(a, c)
    }"""
    model = made(text, s=np.float32(0.05), z=np.int8(0), w=np.ones((8, 8, 3, 3), np.int8))
    plan = Plan(
        (Part("q", 0, 0, ("x",), ("q", "a")), Part("c", 1, 0, ("q",), ("c",)), Part("y", 0, 0, ("a", "c"), ("y",))), 2
    )
    whole = tmp_path / "whole.onnx"
    ir.save(model, whole)
    parts = write_parts(model, plan, tmp_path)
    assert onnx.load(parts[1]).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT8
    x = np.random.default_rng(0).standard_normal((1, 8, 16, 16)).astype(np.float32)
    assert all(check_recomposed(whole, parts, plan, [x]))


def test_part_has_what_it_needs_and_no_more(nets):
    """Given a plan → inputs and outputs as the part says, its weights alone, where it belongs; the model stays."""
    model = nets.parallel(3, 2)
    before = ir.to_proto(model).SerializeToString()
    plan = propose(network_of_model(model, device=SLOW), devices=3).accepted()
    made = parts_of_plan(model, plan)
    for part, one in zip(plan.parts, made, strict=True):
        assert [v.name for v in one.graph.inputs] == list(part.reads)
        assert [v.name for v in one.graph.outputs] == list(part.writes)
        read = {v.name for node in one.graph for v in node.inputs if v is not None}
        assert set(one.graph.initializers) <= read
        assert one.metadata_props["plainconv.part"] == part.name
        assert one.metadata_props["plainconv.device"] == str(part.device)
        assert one.opset_imports == model.opset_imports
    assert ir.to_proto(model).SerializeToString() == before


def test_values_read_inside_a_branch_come_along(made, tmp_path):
    """Given an If in the second part whose branches read a weight and a value of the first → both are there."""
    text = """(float[2] x, bool c) => (float[2] y) {
        a = Relu(x)
        y = If(c) <
            then_branch = t () => (float[2] u) { u = Add(a, w) },
            else_branch = e () => (float[2] v) { v = Neg(a) }
        >
    }"""
    model = made(text, w=np.ones(2, np.float32))
    plan = Plan((Part("a", 0, 0, ("x",), ("a",)), Part("b", 1, 0, ("c", "a"), ("y",))), 2)
    whole = tmp_path / "whole.onnx"
    ir.save(model, whole)
    parts = write_parts(model, plan, tmp_path)
    for condition in (True, False):
        inputs = [np.array([-1, 2], np.float32), np.array(condition)]
        assert all(check_recomposed(whole, parts, plan, inputs))


def test_plan_that_does_not_fit(nets):
    model = nets.parallel(2, 2)
    with pytest.raises(PlanError, match=r"does not fit the network: .*reads nobody"):
        parts_of_plan(model, Plan((Part("a", 0, 0, ("nobody",), ("y",)),), 1))


def test_parts_of_another_network_do_not_recompose(nets, tmp_path):
    """Given parts with one weight changed → the check fails, and names the output and how far it is off."""
    model = nets.parallel(2, 2)
    whole, plan, parts = split(model, tmp_path, devices=2)
    changed = onnx.load(parts[0])
    weight = onnx.numpy_helper.to_array(changed.graph.initializer[0])
    changed.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(weight * 1.01, changed.graph.initializer[0].name)
    )
    onnx.save(changed, parts[0])
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    with pytest.raises(CheckFailedError, match="do not recompose"):
        check_recomposed(whole, parts, plan, [x], tolerance=1e-4)


def test_file_that_no_runtime_takes(nets, tmp_path):
    model = nets.parallel(2, 2)
    _, plan, parts = split(model, tmp_path, devices=2)
    parts[0].write_bytes(b"nothing")
    with pytest.raises(PlanError, match=f"{plan.parts[0].name}: ONNX Runtime refuses it"):
        recomposed(parts, plan, ["x"], ["y"])


def test_written_parts_read_back(nets, tmp_path):
    model = nets.parallel(2, 2)
    _, plan, parts = split(model, tmp_path, devices=2)
    assert [path.name for path in parts] == [f"{part.name}.onnx" for part in plan.parts]
    assert [v.name for v in read_model(parts[0]).graph.outputs] == list(plan.parts[0].writes)
