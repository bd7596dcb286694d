from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from plainconv.exporter.onnx_file.file import graph_from_proto, write
from plainconv.exporter.surgery import run_passes
from plainconv.exporter.surgery.passes.norm_into_conv import NormIntoConv

RNG = np.random.default_rng(0)
NORM = {"gamma": RNG.uniform(0.5, 2, 4), "beta": RNG.standard_normal(4), "mean": RNG.standard_normal(4)}
NORM |= {"var": RNG.uniform(0.5, 2, 4)}
WEIGHTS = NORM | {
    "w": (4, 3, 3, 3), "v": (2, 3, 3, 3), "b": (4,), "t": (3, 4, 3, 3), "g": (4, 2, 3, 3), "d": (4, 4, 1, 1),
    "i": np.array([2, 0, 3, 1]), "sizes": np.array([1.0, 1.0, 2.0, 2.0]), "k": np.array(-0.5), "c": np.array(0.3),
    "ks": np.array([-0.5, -1, -2, -3]).reshape(4, 1, 1), "mixed": np.array([1.0, -1, 2, -3]).reshape(4, 1, 1),
}  # fmt: skip
BN = "BatchNormalization({}, gamma, beta, mean, var)"


def plain(body: str, folder: Path, *, opset: int = 18, size: str = "8,8") -> Counter[str]:
    """Given the body of a graph from x to y → its ops after all passes, the values checked."""
    text = f"(float[N,3,{size}] x) => (float[N,C,Y,X] y) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    rng = np.random.default_rng(3)
    for name, w in WEIGHTS.items():
        if f" {name}," in body or f" {name})" in body:
            values = w if isinstance(w, np.ndarray) else rng.standard_normal(w)
            values = values.astype(np.float32) if values.dtype.kind == "f" else values
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    graph = graph_from_proto(model)
    run_passes(graph)
    write(graph, folder / "plain.onnx")
    for side in (8, 9) if "H" in size else (8,):
        x = {"x": rng.standard_normal((2, 3, side, side)).astype(np.float32)}
        sources = (model.SerializeToString(), (folder / "plain.onnx").read_bytes())
        wanted, found = (
            ort.InferenceSession(each, providers=["CPUExecutionProvider"]).run(None, x)[0] for each in sources
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    return Counter(node.op for node in graph.nodes)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"a = Conv<auto_pad=\"SAME_UPPER\",strides=[2,2]>(x, w) y = {BN.format('a')}", ["Conv"]),
        (f"a = Conv<auto_pad=\"SAME_LOWER\",strides=[2,2]>(x, w, b) y = {BN.format('a')}", ["Conv"]),
        (f"a = ConvTranspose<output_shape=[16,16],strides=[2,2]>(x, t) y = {BN.format('a')}", ["ConvTranspose"]),
        (f"a = Conv(x, v) n = Sin(x) e = Conv(n, v) o = Concat<axis=1>(a, e) y = {BN.format('o')}",
         ["Sin", "Conv", "Conv", "Concat"]),
        (f"a = Conv(x, w) r = Resize<mode=\"linear\">(a, , sizes) y = {BN.format('r')}", ["Conv", "Resize"]),
        (f"a = Conv(x, w) r = Relu(a) n = {BN.format('r')} y = Neg(n)", ["Conv", "Max", "Neg"]),
        (f"a = Conv(x, w) r = MaxPool<kernel_shape=[2,2]>(a) n = {BN.format('r')} y = Neg(n)",
         ["Conv", "MaxPool", "Neg"]),
    ],
)  # fmt: skip
def test_a_norm_goes_into_the_convolutions_before_it(body: str, left: list[str], tmp_path: Path) -> None:
    for size in ("8,8", "H,W") if "ConvTranspose" not in body else ("8,8",):
        assert plain(body, tmp_path, size=size) == Counter(left)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("a = Conv(x, w) r = Relu(a) m = Mul(r, k) y = Add(m, c)", ["Conv", "Min"]),
        ("a = Conv(x, w) r = Relu(a) m = Mul(r, ks) y = Add(m, c)", ["Conv", "Min"]),
        ("a = Conv(x, w) r = Relu(a) s = Add(r, c) y = Mul(s, k)", ["Conv", "Min"]),
        ("a = Conv(x, w) m = Mul(a, mixed) r = Relu(m) s = Neg(r) y = Add(s, c)", ["Conv", "Relu", "Neg", "Add"]),
        ("a = Conv(x, w) r = Relu(a) y = Mul(r, mixed)", ["Conv", "Relu", "Mul"]),
    ],
)
def test_a_factor_that_is_negative_turns_a_relu_over(body: str, left: list[str], tmp_path: Path) -> None:
    assert plain(body, tmp_path) == Counter(left)


def test_a_grouped_transposed_conv_is_scaled_by_its_outputs(tmp_path: Path) -> None:
    body = f"""a = Conv(x, w) n = Sin(a) e = ConvTranspose<group=2,auto_pad="SAME_UPPER",strides=[2,2]>(n, g)
        y = {BN.format("e")}"""
    assert plain(body, tmp_path) == Counter(["Conv", "Sin", "ConvTranspose"])


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv(x, w) s = Sigmoid(a)",  # no comparison
        "a = Conv(x, w) n = Neg(a) s = Add(a, n)",  # another reader
        "e = Conv<pads=[1,1,1,1]>(x, u) s = Concat<axis=1>(x, e)",  # a source that no convolution makes
        'a = Conv(x, w) s = Resize<mode="linear",coordinate_transformation_mode="tf_crop_and_resize">(a, roi, sizes)',
    ],
)
def test_where_something_else_makes_a_part_the_norm_stays(check_pass, body: str) -> None:
    weights = WEIGHTS | {"u": (1, 3, 3, 3), "roi": np.array([0.0, 0, 0, 0, 1, 1, 1, 1])}
    used = {name: w for name, w in weights.items() if f" {name}," in body or f" {name})" in body}
    used = {name: (w.astype(np.float32) if name == "sizes" else w) for name, w in used.items()}
    text = f"(double[2,3,8,8] x) => (double[2,4,Y,X] y) {{ {body} y = {BN.format('s')} }}"
    check_pass(NormIntoConv(), text, None, used | NORM)
