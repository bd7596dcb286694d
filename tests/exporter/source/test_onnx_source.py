"""An ONNX file as SOURCE → a network and a bundle in the file's own names, or one line that says why not."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper, parser

from plainconv.exporter.bundle import Bundle
from plainconv.exporter.cli.main import main
from plainconv.exporter.errors import CheckFailedError, ExportError, PlainconvError, SourceError
from plainconv.exporter.parity.widen import float64_outputs
from plainconv.exporter.pipeline.export import Job, export_bundle, validate_bundle
from plainconv.exporter.progress import be_quiet
from plainconv.exporter.source.network import InputSpec, Request
from plainconv.exporter.source.onnx_source import graph_at, settle_batch
from plainconv.exporter.source.resolve import load_network

BODY = """{ c = Conv<pads=[1,1,1,1]>(image, w) n = BatchNormalization(c, gamma, beta, mean, var) o = Conv(image, v)
    s = Add(n, o) r = Relu(s) p = GlobalAveragePool(r) f = Flatten(p) scores = Gemm<transB=1>(f, h) }"""
FIXED = "(float[1,3,8,8] image) => (float[1,5] scores)"
OPEN = "(float[N,3,H,W] image) => (float[N,5] scores)"


@pytest.fixture(autouse=True)
def _loud_again():
    yield
    be_quiet(False)


def model(text: str, opset: int = 17, half: bool = False) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {k: rng.uniform(0.5, 2, 6) for k in ("gamma", "beta", "mean", "var")}
    weights |= {k: rng.standard_normal(s) for k, s in {"w": (6, 3, 3, 3), "v": (6, 3, 1, 1), "h": (5, 6)}.items()}
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    read = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(
        numpy_helper.from_array(w.astype(np.float16 if half else np.float32), name)
        for name, w in weights.items()
        if name in read
    )
    inferred = onnx.shape_inference.infer_shapes(made).graph.output
    del made.graph.output[:]
    made.graph.output.extend(inferred)
    return made


@pytest.fixture
def file(tmp_path):
    """Write a graph, in ONNX's own text, to a file; its path."""

    def write(text: str, **options: Any) -> str:
        path = tmp_path / "net.onnx"
        onnx.save(model(text, **options), path)
        return str(path)

    return write


def export(source: str, target: Path, **options: Any) -> Bundle:
    request = Request(input_shape=options.pop("input_shape", None))
    return Bundle.open(export_bundle(Job(source, request, target, **options)))


def specs(bundle: Bundle) -> list[str]:
    return [str(spec) for spec in (*bundle.inputs, *bundle.outputs)]


def test_training_form_becomes_plain_under_the_names_of_the_file(file, tmp_path):
    """Given conv + norm beside a 1×1 conv → one conv; names, counts, hash chain and evidence of the file."""
    source = file(FIXED + BODY)
    bundle = export(source, tmp_path / "b")
    assert specs(bundle) == ["image float32[1, 3, 8, 8]", "scores float32[1, 5]"]
    manifest = bundle.manifest
    assert manifest.counts["onnx"]["ops"] == {"Conv": 1, "Gemm": 1, "ReduceMean": 1, "Relu": 1}
    before, after = manifest.counts["training"], manifest.counts["onnx"]
    assert (before["convs"], before["norms"], before["linears"], before["nodes"]) == (2, 1, 1, 8)
    assert before["parameters"] == 6 * 27 + 6 * 3 + 2 * 6 + 30
    assert before["macs"] == 64 * 6 * (27 + 3) + 30
    assert after["macs"] == 64 * 6 * 27 + 30
    sha256 = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    assert manifest.source == {"source": source, "file": {"name": "net.onnx", "sha256": sha256, "opset": 17}}
    assert manifest.chain[0].sha256 == sha256
    assert [link.step for link in manifest.chain] == ["source", "onnx"]
    assert [(p["step"], p["output"], p["status"]) for p in manifest.parities] == [
        ("ONNX (ONNX Runtime)", "scores", "held")
    ]
    assert manifest.name == "net"
    assert validate_bundle(bundle.folder, eval_data=None) == []


def test_open_axes_are_fixed_by_the_input_shape(file, tmp_path):
    source = file(OPEN + BODY)
    with pytest.raises(SourceError, match=r"input image \[N,3,H,W\] has open axes; give --input-shape"):
        load_network(source, Request())
    unnamed = onnx.load(source)
    for axis in (0, 2):
        unnamed.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
    onnx.save(unnamed, tmp_path / "unnamed.onnx")
    with pytest.raises(
        SourceError, match=r"\[\?,3,\?,W\] has open axes; give --input-shape \?,3,\?,W with a number for"
    ):
        load_network(str(tmp_path / "unnamed.onnx"), Request())
    bundle = export(source, tmp_path / "b", input_shape=(2, 3, 6, 5))
    assert specs(bundle) == ["image float32[2, 3, 6, 5]", "scores float32[2, 5]"]


@pytest.mark.parametrize("head", [OPEN, FIXED], ids=["open", "opened"])
def test_dynamic_batch(file, tmp_path, head):
    """Given a batch axis that is open, or that nothing in the graph holds to its size → checked at the largest too."""
    bundle = export(file(head + BODY), tmp_path / "b", dynamic_batch=(1, 2, 4), input_shape=(1, 3, 8, 8))
    assert specs(bundle) == ["image float32[batch, 3, 8, 8]", "scores float32[batch, 5]"]
    steps = {p["step"]: p["status"] for p in bundle.manifest.parities}
    assert steps == {"ONNX (ONNX Runtime)": "held", "ONNX (ONNX Runtime), batch 4": "held"}
    assert validate_bundle(bundle.folder, eval_data=None) == []


SIZES = ((4, 6), (8, 8), (16, 12))


@pytest.mark.parametrize(
    ("head", "batch"),
    [
        (OPEN, None),
        (FIXED, (1, 2, 4)),
        pytest.param(OPEN, (1, 2, 4), marks=pytest.mark.slow),
        pytest.param(FIXED, None, marks=pytest.mark.slow),
    ],
)
def test_dynamic_size(file, tmp_path, head, batch):
    """Given height and width that are open, or that no node holds to their size → checked at both ends of the range."""
    bundle = export(file(head + BODY), tmp_path / "b", dynamic_batch=batch, dynamic_size=SIZES)
    first = "batch" if batch else 1
    assert specs(bundle) == [f"image float32[{first}, 3, height, width]", f"scores float32[{first}, 5]"]
    largest = "batch 4, 16×12" if batch else "16×12"
    wanted = [f"ONNX (ONNX Runtime){at}" for at in ("", ", 4×6", f", {largest}")]
    assert {p["step"]: p["status"] for p in bundle.manifest.parities} == dict.fromkeys(wanted, "held")
    assert bundle.manifest.counts["onnx"]["ops"]["Conv"] == 1
    assert bundle.manifest.counts["onnx"]["macs"] == 64 * 6 * 27 + 30  # at 8×8


def test_dynamic_size_of_a_dense_output(file, tmp_path):
    """Given an output that grows with the image → axes of its own names, in whatever way the file computes them."""
    text = "(float[N,3,H,W] image) => (float[N,6,P,Q] map) { map = Conv<strides=[2,2], pads=[1,1,1,1]>(image, w) }"
    bundle = export(file(text), tmp_path / "b", dynamic_batch=(1, 2, 4), dynamic_size=SIZES)
    assert specs(bundle) == ["image float32[batch, 3, height, width]", "map float32[batch, 6, map_2, map_3]"]
    assert {p["status"] for p in bundle.manifest.parities} == {"held"}


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        ("shape = Constant<value_ints=[1,192]>() y = Reshape(image, shape)", "net cannot take 4×6 .*Reshape"),
        ("y = Flatten(image)", r"net gives \[1, 72\] at 4×6 and \[1, 192\] at 8×8, so it is made for one size"),
    ],
)
def test_graph_made_for_one_size(file, tmp_path, tail, why):
    source = file(f"(float[1,3,8,8] image) => (float[] y) {{ {tail} }}")
    with pytest.raises(SourceError, match=f"{why}.*leave"):
        export(source, tmp_path / "b", dynamic_size=SIZES)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        ("shape = Constant<value_ints=[1,192]>() y = Reshape(image, shape)", "Reshape"),
        ("m = ReduceMean<axes=[0]>(image) y = Sub(image, m)", "for one image depends on the others"),
        ("y = ReduceMax<keepdims=0>(image)", "has no batch axis"),
    ],
)
def test_graph_made_for_one_batch_is_held_to_it(file, tail, why):
    source = file(f"(float[1,3,8,8] image) => (float[] y) {{ {tail} }}")
    network = load_network(source, Request())
    settle_batch(network, dynamic=False)
    assert network.module.batches == {"image": 1}
    network = load_network(source, Request())
    with pytest.raises(SourceError, match=f"net is made for a batch of 1 .*{why}.*; leave --dynamic-batch out"):
        settle_batch(network, dynamic=True)


def test_mean_over_the_batch_is_evaluated_one_batch_at_a_time(file, tmp_path):
    text = "(float[3,4] x) => (float[3,4] y) { m = ReduceMean<axes=[0]>(x) y = Sub(x, m) }"
    assert specs(export(file(text), tmp_path / "b")) == ["x float32[3, 4]", "y float32[3, 4]"]


def test_several_outputs_keep_their_names_and_order(file, tmp_path):
    text = "(float[1,3,8,8] x) => (float[] b, float[] a) { a = Relu(x) m = MaxPool<kernel_shape=[2,2]>(a) b = Neg(m) }"
    bundle = export(file(text), tmp_path / "b")
    assert specs(bundle)[1:] == ["b float32[1, 3, 7, 7]", "a float32[1, 3, 8, 8]"]
    assert [(p["output"], p["status"]) for p in bundle.manifest.parities] == [("b", "held"), ("a", "held")]


def test_an_output_that_is_a_constant(file, tmp_path):
    """Given anchors among the outputs → they come out, and are compared, at any of the sizes."""
    path = file("(float[N,3,H,W] x) => (float[] y, float[] anchors) { y = Relu(x) }")
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "anchors"))
    model.graph.output[1].CopyFrom(onnx.helper.make_tensor_value_info("anchors", TensorProto.FLOAT, [3, 2]))
    onnx.save(model, path)
    bundle = export(path, tmp_path / "b", input_shape=(1, 3, 8, 8))
    assert specs(bundle)[2] == "anchors float32[3, 2]"
    assert [p["status"] for p in bundle.manifest.parities] == ["held", "held"]


@pytest.mark.parametrize(
    ("kind", "dtype"), [("int64", "int64"), pytest.param("uint8", "uint8", marks=pytest.mark.slow), ("bool", "bool")]
)
def test_inputs_that_are_no_floats(file, tmp_path, kind, dtype):
    text = f"({kind}[1,3,8,8] i) => (float[] scores) {{ image = Cast<to=1>(i) {BODY.strip(' {')}"
    assert specs(export(file(text), tmp_path / "b"))[0] == f"i {dtype}[1, 3, 8, 8]"


def test_half_precision(file, tmp_path):
    """Given a file in float16 → fed, run and written in it, held to what float16 is from float64."""
    bundle = export(file(f"(float16[1,3,8,8] image) => (float16[] scores) {BODY}", half=True), tmp_path / "b")
    assert specs(bundle) == ["image float16[1, 3, 8, 8]", "scores float16[1, 5]"]
    (parity,) = bundle.manifest.parities
    assert parity["error"] <= parity["tolerance"]
    assert 1e-4 < parity["tolerance"] < 0.1
    assert validate_bundle(bundle.folder, eval_data=None) == []


def test_input_with_a_value_in_the_file_is_a_constant(tmp_path):
    proto = model(FIXED + BODY)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 3, 3, 3]))
    onnx.save(proto, tmp_path / "net.onnx")
    bundle = export(str(tmp_path / "net.onnx"), tmp_path / "b")
    assert [spec.name for spec in bundle.inputs] == ["image"]
    assert bundle.manifest.counts["onnx"]["ops"]["Conv"] == 1


def test_weights_beside_the_file_are_in_its_hash_and_metadata_is_kept(tmp_path):
    proto = model(FIXED + BODY)
    proto.metadata_props.add(key="names", value="a b")
    path, data = tmp_path / "net.onnx", tmp_path / "w.bin"
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    bundle = export(str(path), tmp_path / "b")
    lines = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in (path, data))
    assert bundle.manifest.chain[0].sha256 == hashlib.sha256(lines.encode()).hexdigest()
    kept = {p.key: p.value for p in onnx.load(bundle.onnx).metadata_props}
    assert kept["names"] == "a b"
    assert kept["producer"] == "plainconv"


def test_a_pass_that_is_wrong_is_found_out(file, tmp_path, monkeypatch):
    monkeypatch.setattr("plainconv.exporter.surgery.passes.gemm_head.GemmHead.apply", _wrong)
    with pytest.raises(CheckFailedError, match="nothing was written"):
        export(file(FIXED + BODY), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def _wrong(self, graph) -> int:
    (gemm,) = (n for n in graph.nodes if n.op == "Gemm")
    if gemm.inputs[1].name == "wrong":
        return 0
    gemm.inputs[1] = type(gemm.inputs[1])("wrong", np.asarray(gemm.inputs[1].values) * np.float32(1.01))
    return 1


TWO = """(float[N,3,8,8] image, int64[N,4] ids) => (float[N,6] y, int64[N,1] label) {
    c = Conv<pads=[1,1,1,1]>(image, w) p = GlobalAveragePool(c) f = Flatten(p) t = Constant<value_ints=[1]>()
    e = Cast<to=1>(ids) s = ReduceSum(e, t) y = Add(f, s) label = ArgMax<axis=1>(y) }"""
BRANCH = """(float[1,4] x) => (float[1,4] y) {
    m = ReduceMean<keepdims=0>(x) z = Constant<value_float=0.0>() cond = Greater(m, z)
    q = If(cond) <then_branch = one () => (float[1,4] a) { two = Constant<value_float=2.0>() a = Mul(x, two) },
                  else_branch = two () => (float[1,4] b) { b = Neg(x) }>
    n = Constant<value_int=3>() t = Cast<to=9>(n)
    y = Loop(n, t, q) <body = turn (int64 i, bool k, float[1,4] s) => (bool k2, float[1,4] s2)
        { k2 = Identity(k) d = Constant<value_float=0.1>() g = Mul(s, d) s2 = Tanh(g) }> }"""
ROUNDED = """(float[N,3,8,8] image) => (float[N,6,8,8] y) {
    s = Constant<value_float=0.03>() z = Constant<value=int8 {0}>() q = QuantizeLinear(image, s, z)
    d = DequantizeLinear(q, s, z) y = Conv<pads=[1,1,1,1]>(d, w) }"""


def test_several_inputs_of_several_types(file, tmp_path):
    """Given images and integers -> one open batch of both, and an output of integers that is judged by agreement."""
    bundle = export(file(TWO), tmp_path / "b", dynamic_batch=(1, 2, 4))
    assert specs(bundle) == [
        "image float32[batch, 3, 8, 8]", "ids int64[batch, 4]", "y float32[batch, 6]", "label int64[batch, 1]",
    ]  # fmt: skip
    assert {(p["output"], p["measure"], p["status"]) for p in bundle.manifest.parities} == {
        ("y", "max", "held"), ("label", "agreement", "held"),
    }  # fmt: skip


def test_quantized_file_keeps_its_scales(file, tmp_path):
    """Given rounding between layers -> it is part of the function, and another rounding of it is refused."""
    bundle = export(file(ROUNDED), tmp_path / "b")
    assert bundle.manifest.counts["onnx"]["ops"] == {"Conv": 1, "DequantizeLinear": 1, "QuantizeLinear": 1}
    assert [p["status"] for p in bundle.manifest.parities] == ["held"]


def test_half_in_bfloat16(file, tmp_path):
    """Given an input in bfloat16, which NumPy has no type for -> it is tried in ONNX Runtime all the same."""
    bundle = export(file("(bfloat16[1,4] x) => (float[1,4] y) { a = Cast<to=1>(x) y = Relu(a) }"), tmp_path / "b")
    assert specs(bundle)[0] == "x bfloat16[1, 4]" and [p["status"] for p in bundle.manifest.parities] == ["held"]


@pytest.mark.parametrize(
    ("text", "ops", "shapes"),
    [
        (BRANCH, "If, Loop", ["y [1, 4]"]),
        ("(float[1,1,4,4] x) => (float[1,1,8,8] y) { s = Constant<value_floats=[1.0,1.0,2.0,2.0]>() "
         'y = Resize<mode="cubic">(x, , s) }', "Resize", ["y [1, 1, 8, 8]"]),
        ("(float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] i) "
         "{ y, i = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) }", "MaxPool", ["y [1, 1, 2, 2]", "i [1, 1, 2, 2]"]),
        ("(float[4] x) => (int64[1,M] y, float[4] z) { y = NonZero(x) z = Relu(x) }", "NonZero",
         ["y [1, 'y_1']", "z [4]"]),
    ],
    ids=["branch and loop", "cubic", "indices of a pool", "a shape that follows from values"],
)  # fmt: skip
def test_ops_that_only_the_reference_evaluator_knows(file, text, ops, shapes):
    """Given such an op -> it is said; float64 within, as elsewhere; shapes as far as they can be known."""
    network = load_network(file(text), Request())
    assert network.warnings[0].startswith(f"{ops} of net.onnx: evaluated in float64 by onnx's reference evaluator")
    wide = float64_outputs(network.module, network.examples, may_copy=False)
    narrow = network.module(*network.examples)
    for y64, y in zip(*((each if isinstance(each, tuple) else (each,)) for each in (wide, narrow)), strict=True):
        assert y64.dtype == (torch.float64 if y.is_floating_point() else y.dtype)
        torch.testing.assert_close(y64.to(y.dtype), y)
    graph = graph_at(network, dynamic_batch=False)
    assert [f"{t.name} {t.shape}" for t in graph.outputs] == shapes


def test_a_file_that_mixes_its_images_may_have_an_open_batch(file):
    """Given an open batch over which the graph takes a maximum -> it may stay open; made for one image, it may not."""
    body = "(float[{},4] x) => (float[{},4] y) {{ m = ReduceMax<axes=[0]>(x) y = Sub(x, m) }}"
    settle_batch(load_network(file(body.format("N", "N")), Request()), dynamic=True)
    with pytest.raises(SourceError, match=r"made for a batch of 1 .*y for one image depends on the others"):
        settle_batch(load_network(file(body.format(1, 1)), Request()), dynamic=True)


def test_what_cannot_have_an_open_batch(file):
    """Given an input that is fixed beside one that is open, or a number that says a shape -> one line."""
    half = "(float[N,2] a, float[1,2] b) => (float[N,2] y) { y = Add(a, b) }"
    with pytest.raises(
        SourceError, match="leaves the batch of a open and fixes that of b to 1; leave --dynamic-batch out"
    ):
        settle_batch(load_network(file(half), Request()), dynamic=True)
    sized = "(float[1,9] x, int64[1] k) => (float[1,K] y, int64[1,K] i) { y, i = TopK(x, k) }"
    network = load_network(file(sized), Request(inputs_file=None, inputs=()))
    with pytest.raises(SourceError, match="its output y has another shape for other numbers"):
        settle_batch(network, dynamic=True)
    assert [t.shape for t in graph_at(network, dynamic_batch=False).outputs] == [[1, "y_1"], [1, "i_1"]]


def test_inputs_of_a_file_by_name(file, tmp_path):
    """Given open axes, and rows of some inputs -> the file's types, and one row of each as the example."""
    path = file("(float16[N,K] a, int32[N,2] i) => (float16[N,K] y, int32[N,2] j) { y = Relu(a) j = Abs(i) }")
    np.savez(tmp_path / "f.npz", a=np.random.rand(3, 5), i=np.ones((3, 2), np.int64))
    network = load_network(path, Request(inputs_file=tmp_path / "f.npz"))
    assert {n: (tuple(x.shape), str(x.dtype)) for n, x in network.inputs.items()} == {
        "a": ((1, 5), "torch.float16"),
        "i": ((1, 2), "torch.int32"),
    }
    assert {n: (len(x), str(x.dtype)) for n, x in network.data.items()} == {"a": (3, "float16"), "i": (3, "int32")}
    for inputs, says in (
        ([InputSpec("b", (1,))], "there is no input b; the ONNX file has a, i"),
        ([InputSpec("a", (1, 5), "float32")], "--input a is float32, but the ONNX file has it as float16"),
        (
            [InputSpec("a", (1, 5)), InputSpec("i", (1, 3))],
            r"--input i=1,3 given, but the ONNX file fixes the input i \[N,2\]",
        ),
    ):
        with pytest.raises(SourceError, match=says):
            load_network(path, Request(inputs=tuple(inputs)))
    np.savez(tmp_path / "f.npz", a=np.ones((3, 5), np.int64))
    with pytest.raises(SourceError, match=r"a is int64 \[3, 5\] in --inputs, but the ONNX file has the input a"):
        load_network(path, Request(inputs_file=tmp_path / "f.npz"))


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("request_", "option"),
    [
        ({"checkpoint": Path("c.pth")}, "--checkpoint"),
        ({"random_init": 0}, "--random-init"),
        ({"ema": False}, "--ema"),
        ({"slope": 0.5}, "--slope"),
        ({"layout": "deploy"}, "--layout"),
        ({"options": {"width": 3}}, "--set"),
    ],
)
def test_options_of_other_sources_are_refused(file, request_, option):
    with pytest.raises(SourceError, match=f"is an ONNX file, which has its weights and form: {option} given"):
        load_network(file(FIXED + BODY), Request(**request_))


@pytest.mark.parametrize(
    ("text", "shape", "says"),
    [
        (FIXED + BODY, (1, 3, 9, 8), r"--input-shape is 1,3,9,8, but the ONNX file fixes the input image \[1,3,8,8\]"),
        (FIXED + BODY, (3, 8, 8), "--input-shape is 3,8,8, but"),
        (OPEN + BODY, (1, 4, 8, 8), "--input-shape is 1,4,8,8, but"),
        (
            "(float[1,2] a, float[1,2] b) => (float[] y) { y = Add(a, b) }",
            (1, 2),
            "is for one input, the ONNX file has a, b",
        ),
        ("(float[1,N] a, float[1,2] b) => (float[] y) { y = Add(a, b) }", None, "give --input a=1,N with a number for"),
        ("() => (float[] y) { y = Constant<value_floats=[1.0]>() }", None, "has no input, wanted one or more"),
        ("(float x) => (float y) { y = Relu(x) }", None, "holds no images"),
        ("(uint64[2] x) => (float[] y) { y = Cast<to=1>(x) }", None, "the input x is uint64, wanted one of bool"),
        ("(string[2] x) => (string[] y) { y = Identity(x) }", None, "wanted one of bool"),
        ("(float[1,4] x) => (float[] y) { a = Neg(x) b = Abs(a) c = Neg(b) y = Log(c) }", None, "NaN or infinity as y"),
        ("(float[1,4] x) => (seq(float[]) y) { y = SequenceConstruct(x) }", None, "gives a list of tensors as y"),
    ],
)
def test_what_is_no_network_is_one_line(file, text, shape, says):
    with pytest.raises(PlainconvError, match=says) as refused:
        load_network(file(text), Request(input_shape=shape))
    assert "\n" not in str(refused.value)


def _external(path: Path, location: str) -> None:
    proto = model(FIXED + BODY)
    weight = next(t for t in proto.graph.initializer if t.name == "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    path.write_bytes(proto.SerializeToString())


def _cyclic(path: Path) -> None:
    proto = model(FIXED + BODY)
    proto.graph.node[3].input[1] = "r"
    path.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no model at all"),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: _external(path, "absent.bin"),
        lambda path: _external(path, "../net.onnx"),
        lambda path: _external(path, "/etc/hostname"),
        _cyclic,
    ],
    ids=["missing", "empty", "text", "truncated", "no data", "climbs out", "absolute", "cyclic"],
)
def test_bad_file_is_the_same_line_as_of_simplify(file, tmp_path, capsys, spoil):
    source = file(FIXED + BODY)
    spoil(Path(source))
    said = []
    for command in (
        ["export", source, "-o", str(tmp_path / "b")],
        ["simplify", source, "-o", str(tmp_path / "p.onnx")],
    ):
        assert main([*command, "--quiet"]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == 1
    assert not (tmp_path / "b").exists()


def test_command_line_takes_a_file(file, tmp_path, capsys):
    source = file(FIXED + BODY)
    assert main(["run", source, "-o", str(tmp_path / "b"), "--engine", "none", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"].keys() == {"training", "onnx"}
    assert shown["source"]["file"]["name"] == "net.onnx"
    assert main(["export", source, "-o", str(tmp_path / "c"), "--opset", "21", "--quiet"]) == 2
    assert "which has its opset: --opset given; leave it out" in capsys.readouterr().err
    assert Counter(p.name for p in tmp_path.iterdir()) == Counter(["b", "net.onnx"])


def test_command_line_takes_several_inputs(file, tmp_path, capsys):
    """Given rows of every input, and a name -> one of each is the example, and all of them are in parity."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", image=rng.normal(size=(5, 3, 8, 8)), ids=rng.integers(0, 9, (5, 4)))
    job = ["export", file(TWO), "--inputs", str(tmp_path / "rows.npz"), "--name", "two-1", "-o", str(tmp_path / "b")]
    assert main([*job, "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "two-1"
    with np.load(tmp_path / "b" / "reference.npz") as held:
        assert list(held["kinds"]).count("data") == 5 and int(held["input_1"].max()) > 1
    assert main([*job[:2], "--input", "image=1,3,8,9", "-o", str(tmp_path / "c"), "--quiet"]) == 2
    assert "--input image=1,3,8,9 given, but the ONNX file fixes the input image" in capsys.readouterr().err


def test_missing_file_is_an_export_error():
    with pytest.raises(ExportError, match="No such file"):
        load_network("absent.onnx", Request())
