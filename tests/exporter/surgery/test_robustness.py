"""Whatever a valid file holds survives surgery; whatever is wrong with a file is said in one line."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from plainconv.exporter.errors import ExportError
from plainconv.exporter.onnx_file.file import LARGE, write
from plainconv.exporter.surgery import simplify


def parsed(text: str, weights: dict[str, np.ndarray] | None = None, *, opset: int = 20, more: str = "") -> Any:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{more}]> g {text}')
    arrays = {
        name: np.asarray(w, np.float32 if np.asarray(w).dtype.kind == "f" else None)
        for name, w in (weights or {}).items()
    }
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    return model


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def check(model: onnx.ModelProto, folder: Path, *, changed: bool | None, feeds: dict | None = None) -> onnx.ModelProto:
    """Simplify, compare in ONNX Runtime for three seeds, and compare names and types of inputs and outputs."""
    given, plain = folder / "given.onnx", folder / "plain.onnx"
    onnx.save(model, given)
    report = simplify(given, plain)
    if changed is not None:
        assert bool(report.passes) is changed
    if not report.passes:
        assert plain.read_bytes() == given.read_bytes()
    result = onnx.load(plain)
    assert [t.SerializeToString() for t in result.graph.input] == [t.SerializeToString() for t in model.graph.input]
    assert [t.SerializeToString() for t in result.graph.output] == [t.SerializeToString() for t in model.graph.output]
    old, new = session(given), session(plain)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = {t.name: rng.standard_normal([d if isinstance(d, int) else 2 for d in t.shape]).astype(np.float32)
             for t in old.get_inputs() if t.type == "tensor(float)"} | (feeds or {})  # fmt: skip
        for a, b in zip(old.run(None, x), new.run(None, x), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
    return result


RNG = np.random.default_rng(0)
W, B = RNG.standard_normal((4, 3, 3, 3)), RNG.standard_normal(4)
NORM = {"gamma": RNG.uniform(0.5, 2, 4), "beta": B, "mean": B * 2, "var": RNG.uniform(0.5, 2, 4)}
NET = """(float[1,3,8,8] x) => (float[1,4,6,6] y)
    { c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, var) }"""


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_value_that_a_branch_reads_counts_as_read(tmp_path: Path) -> None:
    model = parsed(
        """(float[1,3,8,8] x, bool t) => (float[1,4,6,6] y) {
            c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, var)
            y = If(t) <then_branch = a () => (float[1,4,6,6] p) { p = Neg(c) },
                       else_branch = b () => (float[1,4,6,6] q) { q = Add(n, n) }> }""",
        NORM | {"w": W},
    )
    for taken in (True, False):
        result = check(model, tmp_path, changed=False, feeds={"t": np.array(taken)})
        assert ops(result) == ["Conv", "BatchNormalization", "If"]


def test_around_a_branch_the_graph_still_shrinks(tmp_path: Path) -> None:
    model = parsed(
        """(float[1,3,8,8] x, bool t) => (float[1,4,6,6] y) {
            c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, var) i = Identity(n) k = Add(beta, beta)
            y = If(t) <then_branch = a () => (float[1,4,6,6] p) { p = Neg(i) },
                       else_branch = b () => (float[1,4,6,6] q) { q = Mul(i, i) }> }""",
        NORM | {"w": W},
    )
    result = check(model, tmp_path, changed=True, feeds={"t": np.array(True)})
    assert ops(result) == ["Conv", "If"]


def test_a_loop_body_keeps_what_it_takes_from_outside(tmp_path: Path) -> None:
    model = parsed(
        """(float[4] x) => (float[4] y) {
            k = Add(u, v) n = Constant<value_int=3>() t = Constant<value = bool {1}>() z = Identity(x)
            y = Loop(n, t, z) <body = b (int64 i, bool go, float[4] s) => (bool on, float[4] r)
                { on = Identity(go) d = Mul(s, k) r = Add(d, z) }> }""",
        {"u": B, "v": B},
    )
    check(model, tmp_path, changed=None)


def test_an_op_of_another_domain_is_left_alone_though_its_name_is_known(tmp_path: Path) -> None:
    model = parsed(
        """(float[1,3,8,8] x) => (float[1,4,6,6] y)
           { c = Conv(x, w) r = mine.Relu(c) y = mine.Identity(r) }""",
        {"w": W},
        more=', "mine" : 1',
    )
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx")
    assert (tmp_path / "plain.onnx").read_bytes() == (tmp_path / "given.onnx").read_bytes()


def test_beside_such_an_op_the_rest_still_shrinks(tmp_path: Path) -> None:
    model = parsed(
        """(float[1,3,8,8] x) => (float[1,4,6,6] y) {
            c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, var) y = com.microsoft.Gelu(n) }""",
        NORM | {"w": W},
        more=', "com.microsoft" : 1',
    )
    result = check(model, tmp_path, changed=True)
    assert [(n.op_type, n.domain) for n in result.graph.node] == [("Conv", ""), ("Gelu", "com.microsoft")]


def test_a_local_function_is_inlined(tmp_path: Path) -> None:
    model = parsed("(float[2] x) => (float[2] y) { i = Identity(x) y = mine.Twice(i) }", more=', "mine" : 1')
    body = [helper.make_node("Identity", ["a"], ["c"]), helper.make_node("Add", ["c", "c"], ["b"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 20)]))
    result = check(model, tmp_path, changed=True)
    assert (ops(result), list(result.functions)) == (["Add"], [])
    assert [o.domain for o in result.opset_import] == [""]


@pytest.mark.parametrize("large", [False, True])
def test_a_weight_that_branches_and_the_graph_read_is_written_once(tmp_path: Path, large: bool) -> None:
    width = LARGE // 16 if large else 3
    model = parsed(
        f"""(float[1,{width},8,8] x, bool t) => (float[1,4,8,8] y) {{
            c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, var)
            y = If(t) <then_branch = a () => (float[1,4,8,8] p) {{ d = Conv(x, w) p = Add(d, u) }},
                       else_branch = b () => (float[1,4,8,8] q) {{ q = Add(n, u) }}> }}""".replace("8,8", "1,1"),
        NORM | {"w": RNG.standard_normal((4, width, 1, 1)) / width, "u": B.reshape(4, 1, 1)},
    )
    for taken in (True, False):
        result = check(model, tmp_path, changed=True, feeds={"t": np.array(taken)})
        assert ops(result) == ["Conv", "If"]
        names = [t.name for t in result.graph.initializer]
        assert (names.count("u"), names.count("w")) == (1, 1)
        assert not any(a.g.initializer for a in result.graph.node[1].attribute)


def test_what_onnx_graphsurgeon_drops_of_an_output_comes_back(tmp_path: Path) -> None:
    model = parsed(NET, NORM | {"w": W})
    for axis, meaning in enumerate(["DATA_BATCH", "DATA_CHANNEL"]):
        model.graph.output[0].type.tensor_type.shape.dim[axis].denotation = meaning
    check(model, tmp_path, changed=True)  # which compares the types
    model = parsed(NET, NORM | {"w": W})
    model.graph.node.append(helper.make_node("SplitToSequence", ["c"], ["s"], axis=1))
    model.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1, 1, 6, 6]))
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    assert simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx").left_alone == ""


def test_a_negative_size_is_a_free_axis(tmp_path: Path) -> None:
    model = parsed(NET.replace("[1,3,8,8]", "[1,3,H,8]").replace("[1,4,6,6]", "[1,4,K,6]"), NORM | {"w": W})
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[2].dim_value = -1
    onnx.save(model, tmp_path / "given.onnx")
    assert simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx").after == {"Conv": 1}
    x = {"x": RNG.standard_normal((1, 3, 11, 8)).astype(np.float32)}
    wanted, found = (session(tmp_path / name).run(None, x)[0] for name in ("given.onnx", "plain.onnx"))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_an_output_without_shape_gets_the_one_that_follows_or_is_named(tmp_path: Path) -> None:
    model = parsed(NET, NORM | {"w": W})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    assert simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx").after == {"Conv": 1}
    model.graph.node[-1].output[0] = "n"
    model.graph.node.append(helper.make_node("Odd", ["n"], ["y"], domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="the output y has no shape"):
        simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx")


@pytest.mark.parametrize(("rank", "axis"), [(1, 1), (2, 1), (1, 3), (2, 2), (3, 1), (3, 0)])
def test_before_opset_7_an_operand_lies_from_its_axis_on(tmp_path: Path, rank: int, axis: int) -> None:
    """All sizes are alike, so that an operand in the wrong place broadcasts as well."""
    model = parsed("(float[3,3,3,3] x) => (float[3,3,3,3] y) { r = Relu(x) i = Identity(r) y = Add(i, k) }", opset=6)
    model.ir_version = 3
    k = RNG.standard_normal([3] * rank).astype(np.float32)
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, k.shape))
    model.graph.initializer.append(numpy_helper.from_array(k, "k"))
    node = model.graph.node[-1]
    node.attribute.extend([helper.make_attribute("broadcast", 1), helper.make_attribute("axis", axis)])
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    report = simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx")
    assert report.after["Add"] == 1
    assert sum(report.after.values()) == 2
    x = RNG.standard_normal((3, 3, 3, 3)).astype(np.float32)
    wanted = np.maximum(x, 0) + k.reshape(*k.shape, *[1] * (4 - rank - axis))
    found = session(tmp_path / "plain.onnx").run(None, {"x": x})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_an_initializer_that_is_an_input_too_may_be_overridden(tmp_path: Path) -> None:
    model = parsed(NET, NORM | {"w": W})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    other = {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    result = check(model, tmp_path, changed=False, feeds=other)
    assert ops(result) == ["Conv", "BatchNormalization"]
    check(model, tmp_path, changed=False)  # its default is still there


def test_before_ir_4_every_initializer_is_an_input_and_a_constant(tmp_path: Path) -> None:
    model = parsed(NET, NORM | {"w": W}, opset=9)
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.dims) for t in model.graph.initializer
    )
    onnx.save(model, tmp_path / "given.onnx")
    simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx")
    result = onnx.load(tmp_path / "plain.onnx")
    assert ops(result) == ["Conv"]
    assert [t.name for t in result.graph.input] == ["x"]
    x = {"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    wanted, found = (session(tmp_path / name).run(None, x)[0] for name in ("given.onnx", "plain.onnx"))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("(float[2,3] x) => (float[2,3] x) { u = Neg(x) }", None),  # an output that is an input
        ("(float[2,3] x) => (float[2,3] y, float[3] k) { y = Add(x, k) }", False),  # … an initializer
        ("(float[2,3] x) => (float[2,3] y, float[2,3] z) { y = Identity(x) z = Identity(y) }", None),
        ("(float[2,3] x) => (float[3] y) { y = Add(k, k) }", None),  # … constant
        ("(float[2,3] x) => (float[2,3] y) { d, m = Dropout(x) y = Neg(d) }", True),
        ("(float[2,3] x) => (float[2,3] y) { y = Clip(x, , m) }", False),  # an input left out
    ],
)
def test_odd_ends(tmp_path: Path, text: str, changed: bool | None) -> None:
    weights = {"k": RNG.standard_normal(3), "m": np.array(0.5)}
    check(parsed(text, {name: w for name, w in weights.items() if f"{name})" in text or f" {name}," in text}),
          tmp_path, changed=changed)  # fmt: skip


def test_nodes_may_share_a_name_or_have_none(tmp_path: Path) -> None:
    model = parsed(NET.replace("y = ", "n = ").replace("var) }", "var) a = Abs(n) y = Neg(a) }"), NORM | {"w": W})
    check(model, tmp_path, changed=True)
    for node, name in zip(model.graph.node, ["a", "a", "", ""], strict=True):
        node.name = name  # ONNX Runtime would refuse it
    onnx.save(model, tmp_path / "shared.onnx")
    simplify(tmp_path / "shared.onnx", tmp_path / "result.onnx")
    assert len({node.name for node in onnx.load(tmp_path / "result.onnx").graph.node}) == 3


def test_weights_that_two_ops_share_serve_both(tmp_path: Path) -> None:
    text = """(float[1,3,8,8] x, float[1,3,8,8] z) => (float[1,4,6,6] y, float[1,4,6,6] v)
        { c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, var) v = Conv(z, w, beta) }"""
    result = check(parsed(text, NORM | {"w": W}), tmp_path, changed=True)
    assert ops(result) == ["Conv", "Conv"]


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 20, 23])
def test_every_opset_keeps_its_own_form(tmp_path: Path, opset: int) -> None:
    """Squeeze and Unsqueeze take axes as attributes before 13, ReduceMean before 18."""
    axes = {13: ("<axes=[0]>(c)", "<axes=[0]>(s)", "")}.get(13 if opset < 13 else 0, ("(c, a)", "(s, a)", "a"))
    mean = "<axes=[2,3],keepdims=0>(u)" if opset < 18 else "<keepdims=0>(u, m)"
    text = f"""(float[1,3,8,8] x) => (float[1,4] y) {{
        c = Conv<pads=[1,1,1,1]>(x, w) s = Squeeze{axes[0]} u = Unsqueeze{axes[1]} y = ReduceMean{mean} }}"""
    weights = {"w": W} | ({"a": np.array([0])} if axes[2] else {}) | ({"m": np.array([2, 3])} if opset >= 18 else {})
    result = check(parsed(text, weights, opset=opset), tmp_path, changed=True)
    assert ops(result)[0] == "Conv"
    assert not {"Squeeze", "Unsqueeze"} & set(ops(result))


def test_an_open_batch_and_an_open_size_stay_open(tmp_path: Path) -> None:
    text = """(float[N,3,H,W] x) => (float[N,4] y) {
        c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, gamma, beta, mean, var) r = Relu(n)
        p = GlobalAveragePool(r) y = Flatten(p) }"""
    result = check(parsed(text, NORM | {"w": W}), tmp_path, changed=True)
    assert ops(result) == ["Conv", "Relu", "ReduceMean"]
    new = session(tmp_path / "plain.onnx")
    assert new.run(None, {"x": np.zeros((5, 3, 9, 17), np.float32)})[0].shape == (5, 4)


def test_weights_beside_the_file_come_along(tmp_path: Path) -> None:
    model = parsed(NET, NORM | {"w": W})
    onnx.save(model, tmp_path / "given.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "out").mkdir()
    simplify(tmp_path / "given.onnx", tmp_path / "out" / "plain.onnx")
    assert ops(onnx.load(tmp_path / "out" / "plain.onnx")) == ["Conv"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["plain.onnx"]
    alone = parsed("(float[2] x) => (float[2] y) { y = Add(x, k) }", {"k": B[:2]})
    onnx.save(alone, tmp_path / "alone.onnx", save_as_external_data=True, location="k.bin", size_threshold=0)
    simplify(tmp_path / "alone.onnx", tmp_path / "out" / "alone.onnx")  # nothing to do: copied, its data too
    x = np.ones(2, np.float32)
    np.testing.assert_allclose(session(tmp_path / "out" / "alone.onnx").run(None, {"x": x})[0], x + B[:2], rtol=1e-6)


def test_what_no_graph_of_ours_can_hold_is_copied(tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "k")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 2])), [3])
    model = parsed("(float[3] x) => (float[3] y) { i = Identity(x) y = Add(i, k) }")
    model.graph.sparse_initializer.append(sparse)
    onnx.save(model, tmp_path / "given.onnx")
    report = simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx")
    assert "sparse initializer" in report.left_alone
    assert (tmp_path / "plain.onnx").read_bytes() == (tmp_path / "given.onnx").read_bytes()


def cyclic() -> onnx.ModelProto:
    model = parsed("(float[2] x) => (float[2] y) { a = Add(x, x) y = Add(a, x) }")
    model.graph.node[0].input[1] = "y"
    return model


def unknown_op() -> onnx.ModelProto:
    model = parsed("(float[2] x) => (float[2] y) { y = Neg(x) }")
    model.graph.node[0].op_type = "Negg"
    return model


def escaping() -> onnx.ModelProto:
    model = parsed(NET, NORM | {"w": W})
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return model


def missing() -> onnx.ModelProto:
    model = escaping()
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    tensor.external_data[0].value = "nowhere.bin"
    return model


def external(**entries: str) -> onnx.ModelProto:
    model = escaping()
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return model


def cut_weight() -> onnx.ModelProto:
    model = parsed(NET, NORM | {"w": W})
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    tensor.raw_data = tensor.raw_data[:-4]
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cut_weight, "do not fit|refuses"),
        (cyclic, "sorted"),
        (unknown_op, "Negg"),
        (escaping, "outside its own folder"),
        (missing, "lacks the weight"),
        (lambda: external(location="w\0.bin"), "says no file"),
        (lambda: external(), "says no file"),
        (lambda: external(location="bad.onnx", offset="-4"), "no negative"),
        (lambda: external(location="bad.onnx", length="-4"), "no negative"),
        (lambda: external(location="bad.onnx", offset="x"), "no number"),
        (lambda: external(location="bad.onnx", length="17"), "17 bytes for a shape of 432"),
        (lambda: external(location="bad.onnx", offset="4096"), "it ends at"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, make: Any, message: str) -> None:
    (tmp_path / "bad.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(ExportError, match=message) as raised:
        simplify(tmp_path / "bad.onnx", tmp_path / "plain.onnx")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "plain.onnx").exists()


def test_a_large_weight_keeps_its_default_when_it_is_an_input_too(tmp_path: Path) -> None:
    side = 1 + int((LARGE / 4) ** 0.5)
    model = parsed(f"(float[1,{side}] x) => (float[1,{side}] y) {{ i = Identity(x) j = Neg(i) y = MatMul(j, w) }}",
                   {"w": RNG.standard_normal((side, side))})  # fmt: skip
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [side, side]))
    onnx.save(model, tmp_path / "given.onnx")
    simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx")
    x = {"x": np.ones((1, side), np.float32)}
    wanted, found = (session(tmp_path / name).run(None, x)[0] for name in ("given.onnx", "plain.onnx"))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_weight_that_lies_askew_is_read_right(tmp_path: Path) -> None:
    model = external(location="w.bin", offset="3", length=str(4 * W.size))
    (tmp_path / "w.bin").write_bytes(b"abc" + W.astype(np.float32).tobytes())
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    assert simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx").after == {"Conv": 1}
    x = {"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    onnx.save(parsed(NET, NORM | {"w": W}), tmp_path / "given.onnx")
    wanted, found = (session(tmp_path / name).run(None, x)[0] for name in ("given.onnx", "plain.onnx"))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attribute", ["dilations", "strides", "pads"])
def test_an_absurd_window_is_no_crash(tmp_path: Path, attribute: str) -> None:
    model = parsed(NET.replace("6,6]", "a,b]").replace("8,8]", "H,W]"), NORM | {"w": W})
    model.graph.node[0].attribute.append(
        helper.make_attribute(attribute, [1 << 40] * (4 if attribute == "pads" else 2))
    )
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    try:
        simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx")
    except ExportError as error:
        assert "\n" not in str(error)


def test_the_model_given_is_not_changed(tmp_path: Path) -> None:
    model = parsed(NET, NORM | {"w": W})
    before = copy.deepcopy(model).SerializeToString()
    (tmp_path / "given.onnx").write_bytes(before)
    simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx")
    assert (tmp_path / "given.onnx").read_bytes() == before


def test_what_describes_the_model_stays(tmp_path: Path) -> None:
    model = parsed(NET, NORM | {"w": W})
    model.domain, model.model_version, model.doc_string = "org.example", 7, "Two ops."
    model.metadata_props.add(key="author", value="someone")
    onnx.save(model, tmp_path / "given.onnx")
    assert simplify(tmp_path / "given.onnx", tmp_path / "plain.onnx").passes
    plain = onnx.load(tmp_path / "plain.onnx")
    assert (plain.domain, plain.model_version, plain.doc_string) == ("org.example", 7, "Two ops.")
    assert [(p.key, p.value) for p in plain.metadata_props] == [("author", "someone")]


MEASURE = """
import resource, sys
from pathlib import Path
from plainconv.exporter.surgery import simplify
report = simplify(Path(sys.argv[1]), Path(sys.argv[2]))
assert report.after == {"Conv": 8, "Relu": 8}, report.after
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_past_2_gb_it_takes_two_and_a_half_times_the_file(tmp_path: Path) -> None:
    side, nodes = 8704, []
    x = value = gs.Variable("x", np.float32, [1, side, 1, 1])
    for i in range(8):
        made = [gs.Variable(f"{kind}{i}", np.float32, [1, side, 1, 1]) for kind in "cnr"]
        weight = RNG.standard_normal((side, side, 1, 1), dtype=np.float32)
        norm = [
            gs.Constant(f"{part}{i}", RNG.uniform(0.5, 1.5, side).astype(np.float32)) for part in ("g", "b", "m", "v")
        ]
        nodes += [
            gs.Node("Conv", f"conv{i}", {"kernel_shape": [1, 1]}, [value, gs.Constant(f"w{i}", weight)], made[:1]),
            gs.Node("BatchNormalization", f"norm{i}", {}, [made[0], *norm], made[1:2]),
            gs.Node("Relu", f"relu{i}", {}, made[1:2], made[2:]),
        ]
        value = made[2]
    write(gs.Graph(nodes, [x], [value], opset=20, ir_version=10), tmp_path / "given.onnx")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size > 2**31
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "given.onnx"), str(tmp_path / "plain.onnx")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak <= 2.5 * size


@settings(max_examples=examples(150), deadline=None)
@given(places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_bytes_are_refused_or_carried(tmp_path_factory: pytest.TempPathFactory, places: list) -> None:
    """Whatever the bytes are: a result, or one line."""
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(parsed(NET, NORM | {"w": W[:, :, :1, :1]}).SerializeToString())
    for place, value in places:
        content[int(place * len(content))] = value
    (folder / "given.onnx").write_bytes(content)
    try:
        simplify(folder / "given.onnx", folder / "plain.onnx")
    except ExportError as error:
        assert "\n" not in str(error)


def test_values_without_axes_pass_through(tmp_path: Path) -> None:
    """Given a mean over everything, added to a map → Result no pass asks for its first axis."""
    text = """(float[1,4,6,6] x) => (float[1,4,6,6] y)
        { m = ReduceMean<keepdims=0>(x) c = Concat<axis=1>(x, x) s = Split<num_outputs=2, axis=1>(c)
          y = Add(s, m) }"""
    text = text.replace("s = Split<num_outputs=2, axis=1>(c)", "s, t = Split<num_outputs=2, axis=1>(c)")
    check(parsed(text, {}), tmp_path, changed=None)
