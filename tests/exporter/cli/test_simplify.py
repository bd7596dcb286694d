import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from plainconv.exporter.cli.main import main
from plainconv.exporter.surgery import PASSES
from plainconv.exporter.surgery.edit import constant
from plainconv.exporter.surgery.passes.relu_past_maxpool import ReluPastMaxPool

TEXT = """(float[1,3,8,8] x) => (float[1,4,1,1] y) { c = Conv<pads=[1,1,1,1]>(x, w)
    n = BatchNormalization(c, gamma, beta, mean, var) m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(n) r = Relu(m)
    d = Conv<group=4,pads=[2,2,2,2]>(r, v) y = GlobalAveragePool(d) }"""


@pytest.fixture
def given(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {k: rng.uniform(0.5, 2, 4) for k in ("gamma", "beta", "mean", "var")}
    weights |= {"w": rng.standard_normal((4, 3, 3, 3)), "v": rng.standard_normal((4, 1, 5, 5))}
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {TEXT}')
    model.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items())
    onnx.save(model, tmp_path / "given.onnx")
    return tmp_path / "given.onnx"


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_one_file_in_one_file_out(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simplify", str(given), "-o", str(tmp_path / "plain.onnx"), "--quiet"]) == 0
    assert ops(tmp_path / "plain.onnx") == ["Conv", "Relu", "MaxPool", "Conv", "GlobalAveragePool"]
    assert files(tmp_path) == ["given.onnx", "plain.onnx"]
    shown = capsys.readouterr().out
    for part in ("kernel-algebra: 1 rewrites", "kernels", "passes", "BatchNormalization", "holds, error"):
        assert part in shown


def test_a_fixed_size_allows_more_and_skip_less(given: Path, tmp_path: Path) -> None:
    assert main(["simplify", str(given), "-o", str(tmp_path / "plain.onnx"), "--fixed-size", "--quiet"]) == 0
    assert ops(tmp_path / "plain.onnx") == ["Conv", "Relu", "MaxPool", "Conv"]
    skipped = ["--skip", "kernel-algebra", "--skip", "relu-past-maxpool", "--skip", "norm-into-conv"]
    assert main(["simplify", str(given), "-o", str(tmp_path / "plain.onnx"), "--quiet", *skipped]) == 0
    assert ops(tmp_path / "plain.onnx") == [node.op_type for node in onnx.load(given).graph.node]


def test_json_has_all_of_it(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simplify", str(given), "-o", str(tmp_path / "plain.onnx"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["before"]["ops"]["BatchNormalization"] == 1
    assert "BatchNormalization" not in result["after"]["ops"]
    assert result["after"]["kernels"] < result["before"]["kernels"]
    assert {"name": "kernel-algebra", "rewrites": 1, "nodes_removed": 1} in result["passes"]
    assert result["check"]["status"] == "holds"


def test_the_passes_are_listed_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simplify", "--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [p.name for p in PASSES]
    assert main(["simplify", "--list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.onnx", "-o", "plain.onnx"], "No such file"),
        (["given.onnx", "-o", "no/such/plain.onnx"], "a folder that exists"),
        (["given.onnx", "-o", "plain.onnx", "--skip", "fold-nrom"], "no pass is called fold-nrom"),
        (["given.onnx"], "-o PLAIN.onnx"),
        (["text.onnx", "-o", "plain.onnx"], "no ONNX file"),
    ],
)
def test_bad_input_is_one_line_and_2(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("no model at all")
    assert main(["simplify", *arguments, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert files(tmp_path) == ["given.onnx", "text.onnx"]


def test_a_pass_that_is_wrong_is_found_out_and_nothing_is_written(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounded = constant
    monkeypatch.setattr(
        "plainconv.exporter.surgery.algebra.constant",
        lambda graph, stem, values, dtype: rounded(graph, stem, 1.01 * values, dtype),
    )
    (tmp_path / "plain.onnx").write_text("as it was")
    arguments = ["simplify", str(given), "-o", str(tmp_path / "plain.onnx"), "--quiet"]
    assert main(arguments) == 1
    assert "differs: output y" in capsys.readouterr().err
    assert files(tmp_path) == ["given.onnx", "plain.onnx"]
    assert (tmp_path / "plain.onnx").read_text() == "as it was"


def test_the_file_itself_may_be_the_target(given: Path, tmp_path: Path) -> None:
    assert main(["simplify", str(given), "-o", str(given), "--quiet"]) == 0
    assert "BatchNormalization" not in ops(given)
    first = given.read_bytes()
    assert main(["simplify", str(given), "-o", str(given), "--quiet"]) == 0
    assert given.read_bytes() == first


def test_what_nothing_can_compare_is_written_only_when_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "(float[2] x) => (float[2] y) { i = Identity(x) y = mine.Odd(i) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20, "mine" : 1]> g {text}')
    onnx.save(model, tmp_path / "odd.onnx")
    command = ["simplify", str(tmp_path / "odd.onnx"), "-o", str(tmp_path / "plain.onnx"), "--quiet"]
    assert main(command) == 1
    assert "--unchecked" in capsys.readouterr().err
    assert files(tmp_path) == ["odd.onnx"]
    assert main([*command, "--unchecked"]) == 0
    assert ops(tmp_path / "plain.onnx") == ["Odd"]
    assert "not compared" in capsys.readouterr().out


def test_the_pass_that_breaks_a_file_is_named(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: ReluPastMaxPool, graph: object, node: object) -> bool:
        if node.op != "Relu":  # type: ignore[attr-defined]
            return False
        node.op = "Sigmoid"  # type: ignore[attr-defined]
        return True

    monkeypatch.setattr(ReluPastMaxPool, "rewrite", wrong)
    assert main(["simplify", str(given), "-o", str(tmp_path / "plain.onnx"), "--quiet"]) == 1
    assert "--skip relu-past-maxpool leaves out the pass" in capsys.readouterr().err
    assert files(tmp_path) == ["given.onnx"]
