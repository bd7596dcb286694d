"""`exporter inspect`: which engine would run here, and why not the others."""

import pytest
import standin_bundles

from plainconv.engines import choice
from plainconv.engines.cuda.gpu import Gpu
from plainconv.exporter.cli.main import main
from plainconv.exporter.errors import EngineError


@pytest.fixture
def bundle(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx, whose version its engine is of")
    return standin_bundles.whole_bundle(tmp_path / "b")


def test_engine_that_runs_here(bundle, monkeypatch, capsys):
    monkeypatch.setattr(choice, "find_gpu", lambda number=0: Gpu("NVIDIA GeForce RTX 3090", "sm86", 2**34))
    assert main(["inspect", str(bundle)]) == 0
    assert "on this machine engines/net-tensorrt_rtx-fp32.engine runs it\n" in capsys.readouterr().out


def test_why_no_engine_runs_here(bundle, monkeypatch, capsys):
    """Given a machine without a GPU -> ONNX Runtime, and the reason; nothing of it in the JSON."""

    def find_gpu(number=0):
        raise EngineError("no NVIDIA driver on this machine; install one")

    monkeypatch.setattr(choice, "find_gpu", find_gpu)
    assert main(["inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert (
        "on this machine ONNX Runtime runs it\nengines/net-tensorrt_rtx-fp32.engine cannot run here: no NVIDIA" in out
    )
    assert main(["inspect", str(bundle), "--json"]) == 0
    assert "on this machine" not in capsys.readouterr().out
