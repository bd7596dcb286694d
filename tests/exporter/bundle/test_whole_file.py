"""A file written in one step → the old one or the whole new one, and nothing beside it."""

import os
from pathlib import Path

import pytest

from plainconv.exporter.bundle import write_whole


@pytest.mark.parametrize("old", [None, b"old"])
def test_it_is_whole_and_alone(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "x.bin"
    if old is not None:
        path.write_bytes(old)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_in_its_place_stays(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="x"):
        write_whole(tmp_path / "x", b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


@pytest.mark.parametrize(("is_private", "mode"), [(True, 0o600), (False, 0o644)])
def test_who_may_read_it(tmp_path: Path, is_private: bool, mode: int) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "x", b"new", is_private=is_private)
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode
