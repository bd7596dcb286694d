"""`exporter validate --layers`: what is refused, and what is said."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from plainconv.exporter.cli.layers import fault_words
from plainconv.exporter.cli.main import main
from plainconv.exporter.parity.layers import Boundary, StepLayers


def test_without_a_source_the_bundles_own_graph_is_the_reference(
    branches: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(branches.bundle), "--layers", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fault"] is None
    assert [step["step"] for step in found["steps"]] == ["ONNX (ONNX Runtime)", "ONNX Runtime, as it serves"]
    assert {"stem", "left_1", "head"} <= {b["module"] for b in found["steps"][0]["boundaries"]}
    assert all(b["status"] == "rounding" for step in found["steps"] for b in step["boundaries"])


def test_an_onnx_file_is_compared_by_its_nodes(branches: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(branches.bundle), "--layers", str(branches.source), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "ONNX (ONNX Runtime): sound" in out
    assert "right_1" in out


def test_another_source_is_refused(branches: SimpleNamespace, said_once: Any) -> None:
    chain = branches.source.parent / "chain"
    said = said_once(chain, "validate", chain, "--layers", branches.source, "--quiet")
    assert "was made of" in said and "give that SOURCE" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layers", "--random-init", "0"], "--random-init given without --layers SOURCE"),
        (["--checkpoint", "x.pth"], "--checkpoint given without --layers SOURCE"),
        (["--layers", "--eval-data", "x.npz"], "--eval-data given with --layers"),
    ],
)
def test_options_that_do_not_go_together(
    branches: SimpleNamespace, said_once: Any, arguments: list[str], words: str
) -> None:
    assert words in said_once(branches.bundle, "validate", branches.bundle, *arguments)


def test_a_fault_is_one_line_with_all_three_names() -> None:
    b = Boundary(
        "stages.0.act", "conv2d_3", "stages_0_act", ("stages.0.act.bn", "stages.0.act"), 0.1, 1e-7, 0.1, 1e-6, 7
    )
    assert b.status == "fault"
    assert fault_words(StepLayers("ONNX", (b, b)), b) == (
        "ONNX: the first module at fault is stages.0.act (with stages.0.act.bn) → conv2d_3 → layer stages_0_act: "
        "by itself off by 1.0e-01 of its spread, 1.0e-06 is rounding, most in channel 7 (and 1 more)"
    )
