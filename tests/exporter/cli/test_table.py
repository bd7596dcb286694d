"""A bundle for the eye and for a script."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from plainconv.exporter.bundle import (
    Bundle,
    EngineRecord,
    GraphRecord,
    Manifest,
    ShapeRange,
    TensorSpec,
)
from plainconv.exporter.cli.table import as_json, bundle_table, millions, models_table

PARITY = {"step": "plain network", "output": "y", "error": 1e-7, "tolerance": 4e-7, "top1": 1.0, "status": "held"}


def bundle(**parts) -> Bundle:
    manifest = Manifest(
        name="net [bold]",
        inputs=(TensorSpec("input", "float32", ("batch", 3, 8, 8)),),
        outputs=(TensorSpec("y", "float32", ("batch", 3)),),
        source={"checkpoint": {"file": "[c].pth", "sha256": "0" * 64, "epoch": 3, "slope": None}},
        counts={"plain": {"parameters": 1_234_567, "macs": 2_000_000, "convs": 4, "norms": 0}},
        parities=[PARITY | {"accuracy": {"correct": 3, "images": 4, "changed": 0}}],
        extra={"seconds": {"load": 1.0, "onnx": 2.0}},
    )
    for name, value in parts.items():
        setattr(manifest, name, value)
    return Bundle(Path("out/net"), manifest, "0" * 64)


def engine() -> EngineRecord:
    return EngineRecord(
        file="engines/a.engine",
        backend="tensorrt_rtx",
        backend_version="1.7",
        precision="fp32",
        tf32=False,
        targets=("sm80",),
        device=None,
        profiles=({"input": ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))},),
        seconds=0.5,
        size=1_000_000,
        sha256="0" * 64,
        onnx_sha256="0" * 64,
    )


def test_table_says_everything_and_takes_no_name_for_markup(capsys):
    bundle_table(bundle(engines=(engine(),)))
    said = capsys.readouterr().out
    for words in (
        "net [bold] · out/net · every file verified",
        "weights [c].pth (epoch 3), sha256 0000000000000000…",
        "input float32[batch, 3, 8, 8] · outputs y float32[batch, 3]",
        "1.23 M",
        "2.0 M",
        "1.00e-07",
        "3/4 = 75.00%",
        "1:4:8",
        "1.00 MB",
        "seconds: load 1.0, onnx 2.0; 3.0 in all",
    ):
        assert words in said


def test_why_a_step_was_not_taken_is_said_once(capsys):
    absent = {"step": "engine", "output": "y", "error": None, "tolerance": None, "status": "not executed: no GPU"}
    bundle_table(bundle(parities=[absent, absent | {"output": "z"}], source={"random_init": 7}))
    said = capsys.readouterr().out
    assert said.count("engine: not executed: no GPU") == 1
    assert "random weights, seed 7" in said
    assert "no engine: `exporter build` makes one" in said


def graph(precision="int8", kept=0, calibration=None) -> GraphRecord:
    return GraphRecord(
        file=f"model.{precision}.onnx",
        precision=precision,
        sha256="1" * 64,
        onnx_sha256="0" * 64,
        layers={"fp32": kept, precision: 9},
        reference="reference.npz",
        tolerance=0.5,
        kept=tuple(
            {"layer": f"conv[{i}]", "type": "fp32", "reason": "alone 0.7 of the spread off"} for i in range(kept)
        ),
        calibration=calibration,
    )


def test_graphs_of_lower_precisions_and_what_they_leave_wider(capsys):
    """Given graphs -> their layers by type, what they were calibrated on, and the first few layers kept, with why."""
    images = {"images": 40, "method": "auto", "chosen": "minmax"}
    random = {"images": None, "method": "entropy", "chosen": "entropy"}
    bundle_table(bundle(graphs=(graph(kept=10, calibration=images), graph("fp8", 1, random), graph("fp16"))))
    said = capsys.readouterr().out
    for words in (
        "model.int8.onnx",
        "10 fp32, 9 int8",
        "40 images, minmax",
        "random images, entropy",
        "model.fp16.onnx",
    ):
        assert words in said
    assert "int8: conv[7] stays in fp32, alone 0.7 of the spread off" in said
    assert "int8: conv[8]" not in said and "int8: and 2 more; --json names them" in said
    assert "fp8: conv[0] stays in fp32" in said and "fp8: and" not in said and "fp16: " not in said
    assert len(as_json(bundle(graphs=(graph(kept=10),)))["graphs"][0]["kept"]) == 10


def test_what_optimization_profiles_leave_open_is_listed(capsys):
    """Given profiles over batches, and over heights and widths -> each once, without what is fixed in it."""

    def profile(*shapes):
        return {"input": ShapeRange(*((batch, 3, size, 8) for batch, size in shapes))}

    profiles = (profile((1, 8), (1, 8), (2, 8)), profile((4, 8), (8, 16), (8, 32)), profile((1, 8), (1, 9), (1, 9)))
    bundle_table(bundle(engines=(replace(engine(), profiles=profiles),)))
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("1:1:2,", "4:8:8", "8×8:16×8:32×8,", "8×8:9×8:9×8"):
        assert words in said
    assert "1:1:1" not in said


def test_json_is_what_json_can_hold():
    data = json.loads(json.dumps(as_json(bundle(engines=(engine(),))), allow_nan=False))
    assert data["engines"][0]["profiles"][0]["input"]["max"] == [8, 3, 8, 8]
    assert data["parities"][0]["accuracy"]["correct"] == 3


@pytest.mark.parametrize(("count", "text"), [(0, "0.00 M"), (1_234_567, "1.23 M")])
def test_millions(count, text):
    assert millions(count) == text


def test_catalogue(capsys):
    models_table([{"name": "n", "family": "F", "parameters": 1e6, "parameters_plain": 5e5, "input": [1, 3, 2, 2]}])
    assert "1×3×2×2" in capsys.readouterr().out


def test_parts_measures_and_what_was_left_out_are_said(capsys):
    part = {"parts_axis": 1, "parts": 84, "axis": 1, "index": 4, "measure": "rms", "error": 0.02, "tolerance": 0.03}
    low = PARITY | part | {"step": "ONNX fp16", "status": "held"}
    left_out = [{"precision": "int8", "reason": "no layer can be int8"}]
    bundle_table(bundle(parities=[PARITY, low], extra={"left_out": left_out}))
    said = capsys.readouterr().out
    for words in (
        "y[:, 4]",
        "RMS 2.00e-02",
        "y: each of 84 along axis 1 by its own spread",
        "int8 left out: no layer can be int8",
    ):
        assert words in said
