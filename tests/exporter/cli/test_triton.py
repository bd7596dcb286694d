"""`exporter triton`, on a bundle of a network in two parts."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from plainconv.exporter.bundle import PartRecord, SplitRecord, TensorSpec, write_bundle
from plainconv.exporter.cli import triton as triton_command
from plainconv.exporter.cli.main import parser
from plainconv.exporter.errors import BundleError, EngineError

X, A, Y = (TensorSpec(name, "float32", ("N", 2)) for name in "xay")


def save(path: Path, text: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    model.graph.initializer.extend([weight] * any("w" in node.input for node in model.graph.node))
    onnx.save(model, path)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with write_bundle(tmp_path / "b") as draft:
        manifest = draft.manifest
        manifest.name, manifest.inputs, manifest.outputs = "tiny", (X,), (Y,)
        save(draft.path("model.onnx"), "(float[N,2] x) => (float[N,2] y) { a = MatMul(x, w) y = Relu(a) }")
        draft.link("checkpoint", sha256="c" * 64)
        onnx_sha256 = draft.link_onnx().sha256
        save(draft.path("parts/fp32/p0.onnx"), "(float[N,2] x) => (float[N,2] a) { a = MatMul(x, w) }")
        save(draft.path("parts/fp32/p1.onnx"), "(float[N,2] a) => (float[N,2] y) { y = Relu(a) }")
        parts = (
            PartRecord("p0", "parts/fp32/p0.onnx", "", 0, 0, (X,), (A,), {"x": None}),
            PartRecord("p1", "parts/fp32/p1.onnx", "", 1, 0, (A,), (Y,), {"a": "p0"}),
        )
        draft.add_split(SplitRecord("fp32", onnx_sha256, 2, 1, parts, {"y": "p1"}))
    return tmp_path / "b"


def parse(*argv: object) -> argparse.Namespace:
    return parser().parse_args(["triton", *map(str, argv)])


@pytest.fixture
def triton(bundle: Path, tmp_path: Path) -> Callable[..., None]:
    """The command, on the bundle and `models`."""

    def run(*argv: object) -> None:
        triton_command.run(parse(bundle, "-o", tmp_path / "models", *argv))

    return run


def plain(name: str) -> str:
    """The name of a part without its bundle's hash."""
    return re.sub(r"\.[0-9a-f]{8}$", "", name)


def test_what_is_printed(triton: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a split bundle -> its models in a table, the one that clients ask for last."""
    triton()
    head, columns, _, *rows = capsys.readouterr().out.splitlines()
    assert head == f"{tmp_path / 'models'} · tiny fp32 · every file checked"
    assert [c.strip() for c in columns.split("┃")] == ["model", "runtime", "device", "largest batch"]
    assert [[plain(cell.strip()) for cell in row.split("│")] for row in rows] == [
        ["tiny.p0", "onnxruntime", "CPU", "32"],
        ["tiny.p1", "onnxruntime", "CPU", "32"],
        ["tiny", "ensemble", "", "32"],
    ]
    assert sorted(plain(p.name) for p in (tmp_path / "models").iterdir()) == ["tiny", "tiny.p0", "tiny.p1"]


def test_json(triton: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given every option -> what was written by them."""
    options = ("--engine", "onnxruntime", "--precision", "fp32", "--devices", "3,5", "--instances", "2")
    triton("--json", "--name", "net", *options, "--max-batch", "8", "--max-delay-us", "250")
    result = json.loads(capsys.readouterr().out)
    models = result.pop("models")
    assert result == {"repository": str(tmp_path / "models"), "name": "net", "precision": "fp32", "notes": []}
    assert {**models[0], "name": plain(models[0]["name"])} == {
        "name": "net.p0",
        "runtime": "onnxruntime",
        "file": "parts/fp32/p0.onnx",
        "devices": [3],
        "instances": 2,
        "max_batch_size": 8,
        "max_delay_us": 250,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 2]}],
        "outputs": [{"name": "a", "dtype": "float32", "shape": ["N", 2]}],
    }
    assert [(plain(m["name"]), m["devices"], m["max_delay_us"]) for m in models[1:]] == [
        ("net.p1", [5], 0),
        ("net", None, None),
    ]


def test_the_whole(triton: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given --whole and GPUs -> one model on each of them; --force puts it in the place of the split."""
    triton("--devices", "cpu")
    with pytest.raises(EngineError, match="tiny exists, wanted a new model; give --force"):
        triton("--whole")
    capsys.readouterr()
    triton("--whole", "--devices", "0,1", "--force")
    head, *_, row = capsys.readouterr().out.splitlines()
    assert head.endswith("models · tiny fp32 · model.onnx · every file checked")
    assert [cell.strip() for cell in row.split("│")] == ["tiny", "onnxruntime", "GPU 0,1", "32"]
    triton("--whole", "--devices", "0,1", "--prune")
    assert "removed: tiny.p0" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--devices", "0,", "'0,' is not a list of devices; wanted some like 0,1,2, or cpu"),
        ("--devices", "", "'' is not a list of devices"),
        ("--devices", "gpu", "'gpu' is not a list of devices"),
        ("--devices", "-1", "'-1' is not a list of devices"),
        ("--devices", "1024", "'1024' is not a list of devices"),
        ("--instances", "0", "'0' is not a whole number from 1"),
        ("--max-batch", "2147483648", "is not a whole number from 1 to 2147483647"),
        ("--max-delay-us", "1.5", "'1.5' is not a whole number"),
        ("--max-batch", "²", "is not a whole number"),
        ("--engine", "tensorrt_rtx", "invalid choice: 'tensorrt_rtx'"),
    ],
)
def test_a_bad_option(option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a value that an option does not take -> one line and exit code 2."""
    with pytest.raises(SystemExit) as caught:
        parse("b", "-o", "models", option, value)
    shown = capsys.readouterr().err
    assert caught.value.code == 2 and said in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "tensorrt"), "holds no TensorRT engine"),
        (("--precision", "int8"), "there is no int8 graph in the bundle, which has fp32"),
        (("--devices", "0"), "1 devices are given, the fp32 split is over 2"),
        (("--name", "a/b"), "'a/b' is no model name"),
    ],
)
def test_what_cannot_be(triton: Callable[..., None], tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """Given what the bundle or Triton has not -> one line, nothing written."""
    with pytest.raises(EngineError, match=said) as caught:
        triton(*options)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        triton_command.run(parse(tmp_path, "-o", tmp_path / "models"))
    assert list(tmp_path.iterdir()) == []
