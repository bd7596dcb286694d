"""Our packages by their place on disk, under private names."""

import subprocess
import sys
from pathlib import Path

import pytest

from exporter.rooms import room

ROOT = Path(__file__).parents[2]


def test_room_is_imported_once_under_a_private_name():
    assert room("models") is room("models") is sys.modules["plainconv_models"]
    assert room("models.checkpoints").__name__ == "plainconv_models.checkpoints"


def test_absent_part_of_a_room():
    with pytest.raises(ModuleNotFoundError):
        room("models.absent")


def test_engines_and_bundle_need_neither_torch_nor_onnx():
    code = (
        "import sys; from exporter.rooms import room; import exporter.bundle, exporter.cli; room('engines');"
        "print({'torch', 'onnx', 'models', 'engines'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "set()\n"
