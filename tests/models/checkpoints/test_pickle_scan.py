"""Scanning a pickle for the names in it, running nothing."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from plainconv.models.checkpoints.pickle_scan import scan_pickles


class Reduced:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("nowhere",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_are_found_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "some.pkl"
    path.write_bytes(pickle.dumps(["text", Reduced()], protocol))
    scan = scan_pickles(path)
    assert scan.whole
    assert f"{os.mkdir.__module__}.mkdir" in scan.foreign


def test_instance_opcode_names_too(tmp_path: Path) -> None:
    path = tmp_path / "some.pkl"
    path.write_bytes(b"(S'nowhere'\nios\nmkdir\n.")
    assert scan_pickles(path).foreign == ("os.mkdir",)


def test_a_legacy_checkpoint_names_nothing_foreign(tmp_path: Path) -> None:
    path = tmp_path / "legacy.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    scan = scan_pickles(path)
    assert scan.whole
    assert scan.foreign == ()
    assert "torch._utils._rebuild_tensor_v2" in scan.names


def test_a_cut_pickle_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "cut.pkl"
    path.write_bytes(pickle.dumps({"a": "b" * 50})[:-10])
    assert not scan_pickles(path).whole
