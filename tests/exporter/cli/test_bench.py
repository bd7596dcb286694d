"""`exporter bench`, on bundles without an engine, which ONNX Runtime runs."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from plainconv.engines import bench as engines_bench
from plainconv.engines import loading
from plainconv.engines.onnxruntime.runner import OnnxRuntimeRunner
from plainconv.exporter.bundle import TensorSpec, write_bundle
from plainconv.exporter.cli.main import main
from plainconv.exporter.errors import PlainconvWarning

FEW = ("--rounds", "2", "--warmup", "1", "--threads", "1")


def make_onnx(
    path: Path, batch: int | str = 1, names: tuple[str, str] = ("input", "logits"), size: int | str = 8
) -> Path:
    w_OIHW = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", [names[0], "w"], [names[1]], pads=[1, 1, 1, 1])],
        "conv",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [batch, 4, size, size])],
        [numpy_helper.from_array(w_OIHW, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def make_bundle(target: Path, batch: int | str = 1) -> Path:
    with write_bundle(target) as draft:
        draft.manifest.name = "conv"
        draft.manifest.inputs = (TensorSpec("input", "float32", (batch, 3, 8, 8)),)
        draft.manifest.outputs = (TensorSpec("logits", "float32", (batch, 4, 8, 8)),)
        make_onnx(draft.path("model.onnx"), batch)
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    return target


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "fixed")


@pytest.fixture
def free(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "free", "batch")


def bench(*arguments: object) -> int:
    return main(["bench", *map(str, arguments), *FEW])


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_table(fixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a bundle -> its machine, what runs it, and one row of times."""
    assert bench(fixed) == 0
    machine, runner, columns, _, row = capsys.readouterr().out.splitlines()
    assert "onnxruntime" in machine
    assert runner.startswith(f"{fixed}: onnxruntime cpu")
    assert [c.strip() for c in columns.split("┃")][1:] == ["batch", "p50 ms", "p90 ms", "p99 ms", "images/s"]
    _, batch, *times, images = (cell.strip() for cell in row.split("│"))
    assert int(batch) == 1
    assert 0 < float(times[0]) <= float(times[1]) <= float(times[2])
    assert float(images) > 0


def test_json(free: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given batches and an ONNX file with names of its own -> all in JSON, with the ratio of each batch."""
    other = make_onnx(tmp_path / "other.onnx", "N", ("data", "scores"))
    assert bench(free, "--batch", "1,4", "--against", other, "--json") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    result = json.loads(shown.out)
    assert {"cpu", "cores", "gpu", "runtimes"} < set(result["machine"])
    assert (result["rounds"], result["warmup"], result["threads"]) == (2, 1, 1)
    assert result["runners"][str(free)]["provider"] == "cpu"
    assert [(r["batch"], r["runner"]) for r in result["results"]] == [
        (b, str(n)) for b in (1, 4) for n in (free, other)
    ]
    for row in result["results"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["stages_ms"] == {}
        assert (row["first_over_this"] is None) == (row["runner"] == str(free))
    ratio = result["results"][1]["first_over_this"]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]


def test_raw_samples(free: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given --raw -> the same as --json and every sample, from which its figures follow; an old file is replaced."""
    raw = tmp_path / "samples.json"
    raw.write_text("old")
    assert bench(free, "--batch", "2", "--raw", raw, "--json") == 0
    written = json.loads(raw.read_text())
    samples = written.pop("samples")
    assert written == json.loads(capsys.readouterr().out)
    (row,), (taken,) = written["results"], samples
    assert (taken["batch"], taken["runner"]) == (2, str(free))
    assert len(taken["turns_ms"]) == 2
    values = [ms for turn in taken["turns_ms"] for ms in turn]
    assert len(values) == row["calls"]
    assert row["p50_ms"] == pytest.approx(np.median(values))
    assert row["images_per_second"] == pytest.approx(2e3 / np.mean(values))
    assert files(tmp_path) == ["free", "samples.json"]


def test_an_onnx_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a file whose batch is open -> batch 1; nothing is claimed of its precision."""
    assert bench(make_onnx(tmp_path / "m.onnx", "N"), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in result["results"]] == [1]
    runner = {"backend": "onnxruntime", "provider": "cpu", "tf32": False, "graph": "m.onnx"}
    assert result["runners"][str(tmp_path / "m.onnx")] == runner


def test_an_open_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_onnx(tmp_path / "m.onnx", size="side")
    assert bench(path, "--json") == 2
    assert "has an axis side free besides the batch; give --size" in capsys.readouterr().err
    assert bench(path, "--size", "12", "--json") == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["shapes"] == {"input": [1, 3, 12, 12]}


def test_against_itself(fixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given the same bundle twice -> two runners with names of their own."""
    assert bench(fixed, "--against-engine", "onnxruntime", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["runners"]) == [str(fixed), f"{fixed} onnxruntime"]
    assert bench(fixed, "--against", fixed) == 0
    shown = capsys.readouterr().out
    assert "first / this" in shown
    assert f"{fixed} again: onnxruntime" in shown


def test_what_load_is_asked_for(fixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given options -> handed to `engines.load`, for the other one its own where they are given."""
    asked = []
    load = loading.load

    def spy(bundle: Path, engine: str, **options: object) -> object:
        asked.append((bundle, engine, options))
        return load(bundle, "onnxruntime")

    monkeypatch.setattr(loading, "load", spy)
    options = ("--engine", "tensorrt_rtx", "--precision", "fp16", "--provider", "cpu")
    assert bench(fixed, *options, "--against-engine", "onnxruntime", "--against-precision", "fp32", "--quiet") == 0
    common = {"threads": 1, "providers": "cpu", "device": 0, "devices": None, "eager_kernels": True}
    assert asked == [
        (fixed, "tensorrt_rtx", {**common, "precision": "fp16"}),
        (fixed, "onnxruntime", {**common, "precision": "fp32"}),
    ]
    asked.clear()
    assert bench(fixed, "--devices", "0,2", "--against-whole", "--against-threads", "2", "--quiet") == 0
    common = {"precision": "auto", "providers": "auto", "device": 0, "eager_kernels": True}
    assert asked == [
        (fixed, "auto", {**common, "threads": 1, "devices": (0, 2)}),
        (fixed, "auto", {**common, "threads": 2, "devices": None}),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against-whole"], "what is measured is whole; give --devices too, or leave it out"),
        (["--devices", "0,1"], "has no split .it has none.; make one with `exporter split`"),
    ],
)
def test_parts_that_are_not_there(
    fixed: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a bundle that is not split, and devices → one line, exit code 2."""
    assert bench(fixed, *options) == 2
    assert re.search(message, capsys.readouterr().err)


def test_file_on_devices(fixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given an ONNX file, and devices → a file has no parts."""
    assert bench(fixed / "model.onnx", "--devices", "0,1") == 2
    assert "which ONNX Runtime runs, not in parts; give a bundle that has them" in capsys.readouterr().err


def test_stages_of_a_device(fixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a runner with a clock on its device -> the copies and the computing apart."""
    runner = OnnxRuntimeRunner
    monkeypatch.setattr(runner, "stages", lambda self, inputs: {"copy in": 0.25, "compute": 12.5, "copy out": 0.5})
    assert bench(fixed) == 0
    shown = capsys.readouterr().out
    for part in ("copy in ms", "compute ms", "copy out ms", "0.2500", "12.50", "0.5000"):
        assert part in shown


def test_batches_of_the_profiles(
    free: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given an engine that has optimization profiles -> the batches they are made for, unless told."""
    from plainconv.exporter.bundle import ShapeRange

    covered = {"input": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (3, 3, 8, 8))}
    runner = OnnxRuntimeRunner
    monkeypatch.setattr(runner, "profiles", (covered,))
    assert bench(free, "--json") == 0
    assert [row["batch"] for row in json.loads(capsys.readouterr().out)["results"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fixed", "--batch", "8"], "batch 8 was asked for, input float32[1, 3, 8, 8] takes 1 and no other"),
        (
            ["free", "--batch", "1,2", "--against", "one.onnx"],
            "one.onnx: input input has shape [2, 3, 8, 8], wanted [1",
        ),
        (["fixed", "--against", "large.onnx"], "large.onnx: input input has shape [1, 3, 8, 8], wanted [1, 3, 16, 16]"),
        (["fixed", "--against", "junk.onnx"], "junk.onnx: ONNX Runtime cannot load it"),
        (["fixed", "--engine", "tensorrt"], "holds no tensorrt engine; build one"),
        (["one.onnx", "--engine", "tensorrt"], "one.onnx is a file, which ONNX Runtime runs, not tensorrt"),
        (["one.onnx", "--precision", "fp16"], "one.onnx is a file, which has the precision that it has, not fp16"),
        (["fixed", "--against", "one.onnx", "--against-precision", "int8"], "one.onnx is a file, which has the precis"),
        (["absent"], "not a bundle (no such folder)"),
        (
            ["fixed", "--against", "absent.onnx"],
            "absent.onnx: ONNX Runtime cannot load it (Load model from absent.onnx failed",
        ),
        (["fixed", "--raw", "absent/samples.json"], "no file can be written there"),
        (["fixed", "--raw", "free"], "no file can be written there"),
        (["fixed", "--batch", "0"], "'0' is not a list of batch sizes"),
        (["fixed", "--batch", "1,,2"], "'1,,2' is not a list of batch sizes"),
        (["fixed", "--batch", "²"], "is not a list of batch sizes"),
        (["fixed", "--size", "8x0"], "'8x0' is not a size; wanted one like 224"),
        (["fixed", "--size", "8"], "size 8x8 was asked for, input float32[1, 3, 8, 8] has a fixed one"),
        (["fixed", "--rounds", "0"], "'0' is not a whole number from 1"),
        (["fixed", "--warmup", "-1"], "argument --warmup"),
        (["fixed", "--threads", "x"], "'x' is not a whole number from 0"),
        (["fixed", "--provider", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_bad_input(
    fixed: Path,
    free: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Given something wrong -> exit code 2 and one line, before anything is measured or written."""
    make_onnx(tmp_path / "one.onnx")
    make_onnx(tmp_path / "large.onnx", size=16)
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 9)
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines_bench, "measure", lambda *_, **__: pytest.fail("it measured"))
    try:
        code = main(["bench", *arguments])
    except SystemExit as exit:
        code = exit.code
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert files(tmp_path) == before


def test_interrupted(
    fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a Ctrl-C while it measures -> 130, and the file of an earlier run is as it was."""
    raw = tmp_path / "samples.json"
    raw.write_text("earlier")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engines_bench, "measure", stop)
    assert bench(fixed, "--raw", raw) == 130
    assert raw.read_text() == "earlier"
    assert files(tmp_path) == ["fixed", "samples.json"]
    assert "interrupted" in capsys.readouterr().err


def test_full_disk(
    fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a file that cannot be written to its end -> one line, and nothing half-written."""
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert bench(fixed, "--raw", tmp_path / "samples.json", "--quiet") == 2
    assert "samples.json: cannot be written (No space left on device)" in capsys.readouterr().err
    assert files(tmp_path) == ["fixed"]


def test_a_warning_is_one_line(
    fixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a runner that goes on with less -> our words on stderr, and the measurement."""
    import warnings

    load = loading.load

    def warned(*arguments: object, **options: object) -> object:
        warnings.warn("the CPU runs the model", PlainconvWarning, stacklevel=2)
        return load(*arguments, **options)

    monkeypatch.setattr(loading, "load", warned)
    assert bench(fixed, "--quiet") == 0
    assert capsys.readouterr().err == "exporter: warning: the CPU runs the model\n"


def test_every_runner_is_closed(fixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a failure in the second runner -> the first is closed."""
    closed = []
    runner = OnnxRuntimeRunner
    close = runner.close
    monkeypatch.setattr(runner, "close", lambda self: (closed.append(self.backend), close(self)))
    assert bench(fixed, "--against", fixed.parent / "absent") == 2
    assert closed == ["onnxruntime"]
