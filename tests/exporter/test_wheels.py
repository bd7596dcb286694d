"""Which ONNX Runtime is installed: one of two wheels, and never both."""

import importlib.metadata

import pytest

from plainconv.exporter import wheels
from plainconv.exporter.cli.main import main


@pytest.fixture
def installed(monkeypatch):
    """Says which wheels are installed."""

    def say(*names):
        def version(name):
            if name not in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return "1.31"

        monkeypatch.setattr(importlib.metadata, "version", version)

    return say


@pytest.mark.parametrize("names", [(), ("onnxruntime",), ("onnxruntime-gpu",)])
def test_one_wheel_or_none(installed, names):
    installed(*names)
    assert wheels.collision() is None
    found = wheels.missing(ImportError("No module named 'onnxruntime'"))
    assert found == (
        "ONNX Runtime cannot be imported (No module named 'onnxruntime'); pip install 'plainconv[cpu]', or "
        "'plainconv[gpu]' on a machine with an NVIDIA GPU"
    )


def test_both_wheels(installed, capsys):
    """Given both, of which the last one installed has overwritten the other -> said at the start, with the remedy."""
    installed("onnxruntime", "onnxruntime-gpu")
    wanted = (
        "onnxruntime and onnxruntime-gpu are both installed, and each has overwritten files of the other; pip uninst"
    )
    assert wheels.collision().startswith(wanted)
    assert wheels.missing(ImportError("DLL load failed")).startswith(wanted)
    main(["inspect", "no/such/bundle"])
    assert capsys.readouterr().err.startswith(f"exporter: warning: {wanted}")


def test_a_command_that_needs_the_one_that_is_missing(monkeypatch, capsys):
    """Given no ONNX Runtime -> one line that names the extras, and exit code 2; not an internal error."""

    def run(args):
        raise ImportError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr("plainconv.exporter.cli.inspect.run", run)
    assert main(["inspect", "b"]) == 2
    assert "pip install 'plainconv[cpu]'" in capsys.readouterr().err
