"""The whole of it: a float32 file in, a typed graph within its tolerance out, or one line that says why not."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from plainconv.exporter.errors import CheckFailedError, ExportError
from plainconv.exporter.onnx_file.ir_graph import save
from plainconv.exporter.parity import in_batches
from plainconv.exporter.parity.inputs import DATA, HOT, NORMAL
from plainconv.exporter.precision import NAMES, Calibration, precision_of_name, typed_model
from plainconv.exporter.precision.edit import load
from plainconv.exporter.precision.narrow import narrow
from plainconv.exporter.precision.run import run_of
from plainconv.exporter.precision.typed import judged_by, typed_run

NARROW = NAMES[1:]
AGREE = 0.99


@pytest.fixture
def file_of(made, tmp_path):
    """A small network, saved."""

    def write(text, weights, opset=22):
        model = made(text, weights, opset)
        save(model, tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    return write


def measured(typed, reference, tolerance=None):
    """The parities of a typed graph with what its precision is held to."""
    limit = typed.precision.tolerance if tolerance is None else tolerance
    return judged_by(reference, typed.precision).judge("typed", run_of(typed.model), limit)


@pytest.mark.parametrize("name", NARROW)
def test_trained_networks_in_every_precision(digits, checked, signature, name):
    """Given a trained network → parity holds, every layer is in the type but those kept, it classifies as before."""
    precision = precision_of_name(name)
    typed = typed_model(
        digits.path, precision, digits.reference, calibration=Calibration({"input": digits.images[32:64]})
    )
    checked(typed.model)
    assert signature(typed.model) == signature(load(digits.path))
    assert [p.status for p in measured(typed, digits.reference)] == ["held"]
    kept = {k.node for k in typed.kept}
    assert {layer for layer, kind in typed.layers.items() if kind != (precision.quantized or precision.rest)} == kept
    assert {kind for layer, kind in typed.layers.items() if layer not in kept} == {
        precision.quantized or precision.rest
    }
    assert len(kept) < len(typed.layers) / 2
    assert (typed.method is None) == (precision.quantized is None)

    after = in_batches(run_of(typed.model), (digits.images,), 1)[0].argmax(1)
    assert np.mean(after == digits.classes) >= AGREE
    assert np.mean(after == digits.labels) >= np.mean(digits.classes == digits.labels) - (1 - AGREE)


@pytest.mark.parametrize(("name", "named"), [("bf16", ["up"]), ("fp16", []), ("int8", []), ("int8+bf16", [])])
def test_a_layer_whose_op_lacks_the_precision_is_named(file_of, reference_from_onnx, name, named):
    """Given a transposed conv, which no engine has in bf16 → it is in fp32, and said to be."""
    text = """(float[1,3,8,8] x) => (float[1,4] y) {
        [up] a = ConvTranspose(x, u)
        b = Relu(a)
        [head] c = Conv(b, w)
        d = GlobalAveragePool(c)
        y = Flatten(d)
    }"""
    path = file_of(text, {"u": (3, 8, 2, 2), "w": (4, 8, 3, 3)})
    typed = typed_model(path, precision_of_name(name), reference_from_onnx(path), tolerance=9.0)
    assert [(k.node, k.type, k.reason) for k in typed.kept] == [
        (node, "fp32", "this ConvTranspose cannot be in bf16") for node in named
    ]
    assert all(typed.layers[node] == "fp32" for node in named)


LARGE = """(float[1,3,8,8] x) => (float[1,5] logits) {
    a = Conv(x, u)
    b = Relu(a)
    c = Conv(b, v)
    d = Mul(c, k)
    e = Relu(d)
    f = Conv(e, w)
    g = GlobalAveragePool(f)
    logits = Flatten(g)
}"""


def large_weights(factor):
    """The middle conv's weights, times `factor`, which the node after it divides by."""
    rng = np.random.default_rng(5)
    u, v, w = (
        rng.standard_normal(s).astype(np.float32) / np.sqrt(9 * s[1])
        for s in ((8, 3, 3, 3), (8, 8, 3, 3), (5, 8, 3, 3))
    )
    return {"u": u, "v": v * np.float32(factor), "w": w, "k": np.float32(1 / factor)}


@pytest.mark.parametrize("name", ["fp16", "int8+fp16"])
@pytest.mark.parametrize("factor", [2e4, 1e6])
def test_layer_that_overflows_is_kept_and_named(file_of, reference_from_onnx, name, factor):
    """Given a conv whose outputs fp16 cannot hold → it alone stays in float32, with the reason; parity holds."""
    path = file_of(LARGE, large_weights(factor))
    reference = reference_from_onnx(path)
    typed = typed_model(path, precision_of_name(name), reference, tolerance=0.5)
    assert [k.node for k in typed.kept] == ["conv_"]
    assert "over a quarter of float16's 65504" in typed.kept[0].reason
    assert typed.layers["conv_"] == "fp32"
    assert "fp32" not in {kind for layer, kind in typed.layers.items() if layer != "conv_"}
    assert all(measured(typed, reference, 0.5))


def test_without_keeping_it_overflows(file_of, reference_from_onnx):
    """Given the same network all in fp16 → no numbers, and a parity that failed."""
    path = file_of(LARGE, large_weights(1e6))
    model = load(path)
    narrow(model, ir.DataType.FLOAT16)
    reference = reference_from_onnx(path)
    with np.errstate(all="ignore"):
        outputs = in_batches(run_of(model), reference.arrays, 1)[0]
        (parity,) = reference.judge("fp16", run_of(model), 0.1)
    assert not np.isfinite(outputs).all()
    assert not parity
    assert parity.status == "failed"


def test_nothing_within_the_tolerance(file_of, reference_from_onnx):
    """Given a tolerance that int8 cannot hold in any layer → one line with the remedy, exit code 1."""
    path = file_of(LARGE, large_weights(1.0))
    with pytest.raises(
        CheckFailedError, match=r"no layer can be int8 with outputs within 1e-06 .*--tolerance"
    ) as raised:
        typed_model(path, precision_of_name("int8"), reference_from_onnx(path), tolerance=1e-6)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1


def test_tighter_tolerance_keeps_more(file_of, reference_from_onnx):
    """Given less and less tolerance → more layers kept, each with its own error, and the parity held to it."""
    path = file_of(LARGE, large_weights(1.0))
    reference = reference_from_onnx(path)
    whole = typed_model(path, precision_of_name("int8"), reference, tolerance=10.0)
    assert whole.kept == ()
    limit = measured(whole, reference, 10.0)[0].error * 0.9
    tight = typed_model(path, precision_of_name("int8"), reference, tolerance=limit)
    assert 0 < len(tight.kept) < 3
    assert all("of the spread off" in k.reason for k in tight.kept)
    (parity,) = measured(tight, reference, limit)
    assert parity
    assert parity.tolerance == limit


def test_what_is_not_quantized_has_the_type_around_it(file_of, reference_from_onnx):
    """Given int8 with fp16 around it and a tolerance that int8 alone misses → the layers kept are fp16, none fp32."""
    path = file_of(LARGE, large_weights(1.0))
    reference = reference_from_onnx(path)
    whole = typed_model(path, precision_of_name("int8+fp16"), reference, tolerance=10.0)
    limit = measured(whole, reference, 10.0)[0].error * 0.9
    tight = typed_model(path, precision_of_name("int8+fp16"), reference, tolerance=limit)
    assert set(tight.layers.values()) == {"int8", "fp16"} and {kept.type for kept in tight.kept} == {"fp16"}
    assert {name for name, kind in tight.layers.items() if kind == "fp16"} == {kept.node for kept in tight.kept}


def test_graph_without_layers_is_refused(file_of, reference_from_onnx):
    path = file_of("(float[1,2] x) => (float[1,2] logits) { logits = Relu(x) }", {})
    with pytest.raises(ExportError, match="no conv or matrix product with a constant weight, and so no fp16") as raised:
        typed_model(path, precision_of_name("fp16"), reference_from_onnx(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", NARROW)
def test_older_opset_is_converted(file_of, checked, reference_from_onnx, name):
    """Given opset 12 → the opset that the precision needs, an IR version to go with it, unique names; it holds."""
    path = file_of(
        """(float[1,3,8,8] x) => (float[1,5] logits) {
            a = Conv(x, u)
            b = Clip(a, low)
            c = Conv(b, v)
            d = ReduceMean<axes=[2,3], keepdims=0>(c)
            e = Unsqueeze<axes=[2]>(d)
            f = Squeeze<axes=[2]>(e)
            logits = Gemm<transB=1>(f, p)
        }""",
        {"u": (8, 3, 3, 3), "low": np.float32(0), "v": (8, 8, 3, 3), "p": (5, 8)},
        opset=12,
    )
    model = onnx.load(path)
    model.ir_version = 7
    onnx.save(model, path)
    precision = precision_of_name(name)
    reference = reference_from_onnx(path)
    typed = typed_model(path, precision, reference, tolerance=1.0)
    proto = checked(typed.model)
    assert proto.opset_import[0].version == max(12, precision.min_opset)
    assert proto.ir_version >= onnx.helper.find_min_ir_version_for(proto.opset_import[:1])
    assert set(typed.layers.values()) == {precision.quantized or precision.rest}
    assert all(measured(typed, reference, 1.0))


@pytest.mark.parametrize("name", ["int8", "fp16"])
def test_a_network_of_two_inputs_in_a_lower_precision(file_of, reference_from_onnx, name):
    """Given two inputs → both are calibrated on, and the result is held to the reference."""
    path = file_of("(float[1,4] x) => (float[1,3] logits) { logits = MatMul(x, w) }", {"w": (4, 3)})
    one = reference_from_onnx(path)
    two = file_of(
        "(float[1,4] x, float[1,4] z) => (float[1,3] logits) { s = Add(x, z) logits = MatMul(s, w) }", {"w": (4, 3)}
    )
    half = np.float32(0.5) * one.arrays[0]
    reference = type(one)(**{**vars(one), "inputs": {"x": half, "z": half}})
    assert measured(typed_model(two, precision_of_name(name), reference), reference)[0]


def test_what_a_precision_is_judged_on(digits):
    """Given random images, the user's and edges → fp16 on all, int8 on the user's; without any, on the random ones."""
    reference = digits.reference
    assert {NORMAL, DATA, HOT} <= {*reference.kinds}
    assert judged_by(reference, precision_of_name("fp16")) is reference
    assert {*judged_by(reference, precision_of_name("int8+fp16")).kinds} == {DATA}
    others = reference.of_kinds([kind for kind in reference.kinds if kind != DATA])
    assert {*judged_by(others, precision_of_name("fp8")).kinds} == {NORMAL}


@pytest.mark.parametrize("name", ["fp16", "int8+bf16"])
def test_saved_graph_gives_the_same(file_of, tmp_path, reference_from_onnx, name):
    path = file_of(LARGE, large_weights(1.0))
    reference = reference_from_onnx(path)
    typed = typed_model(path, precision_of_name(name), reference)
    save(typed.model, tmp_path / "typed.onnx")
    x = reference.arrays[0][:1]
    np.testing.assert_array_equal(typed_run(tmp_path / "typed.onnx")(x)[0], run_of(typed.model)(x)[0])


def test_graph_without_types_is_typed_all_the_same(file_of, reference_from_onnx):
    """Given a file that says the type of no value inside, nor names its nodes → every layer is fp16."""
    path = file_of(LARGE, large_weights(1.0))
    model = onnx.load(path)
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, path)
    typed = typed_model(path, precision_of_name("fp16"), reference_from_onnx(path))
    assert typed.layers == {"conv": "fp16", "conv_": "fp16", "conv__": "fp16"}
