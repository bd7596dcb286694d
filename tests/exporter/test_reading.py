"""Files that a user names: whole, or refused where they have no end."""

import json
from pathlib import Path

import pytest

from plainconv.engines.predict.images import opened
from plainconv.exporter.bundle.presets import preprocessing_given
from plainconv.exporter.errors import PlainconvError
from plainconv.exporter.partition.cost import read_profile
from plainconv.exporter.partition.plan import read_plan
from plainconv.exporter.pipeline.labelled import labelled
from plainconv.exporter.reading import TooLargeError, read_at_most
from plainconv.exporter.source.images import classes_given

ENDLESS = Path("/dev/zero")


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_at_most(path, 5) == b"12345"
    with pytest.raises(TooLargeError, match="larger than 4 bytes"):
        read_at_most(path, 4)


def endless(folder: Path, name: str) -> Path:
    link = folder / name
    link.symlink_to(ENDLESS)
    return link


@pytest.mark.skipif(not ENDLESS.exists(), reason="this system has no file without an end")
@pytest.mark.parametrize("read", [preprocessing_given, classes_given, read_plan, read_profile])
def test_a_file_without_an_end_is_refused(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlainconvError, match="larger than"):
        read(endless(tmp_path, "endless.json"))


@pytest.mark.skipif(not ENDLESS.exists(), reason="this system has no file without an end")
def test_images_without_an_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given limits that a test has room for -> one line, of an image as of the list of them."""
    monkeypatch.setattr("plainconv.engines.predict.images.MOST_FILE", 2**20)
    monkeypatch.setattr("plainconv.exporter.pipeline.labelled._MOST_FILE", 2**20)
    with pytest.raises(PlainconvError, match=r"cannot be read \(larger than 1048576 bytes"):
        opened(endless(tmp_path, "image.png"))
    with pytest.raises(PlainconvError, match=r"cannot be read \(larger than 1048576 bytes"):
        labelled(endless(tmp_path, "coco.json"), ())


def test_a_profile_is_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"conv": 1e-3}))
    assert read_profile(tmp_path / "p.json") == {"conv": 1e-3}
