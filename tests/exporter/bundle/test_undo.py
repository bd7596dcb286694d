"""What an error interrupts is taken back, in files and in the manifest."""

import pytest

from plainconv.exporter.bundle import Draft
from plainconv.exporter.bundle.manifest import Manifest
from plainconv.exporter.bundle.undo import undone_on_error


@pytest.fixture
def draft(tmp_path):
    made = Draft(tmp_path, Manifest(parities=[{"step": "a"}], extra={"warnings": ["one"]}))
    made.path("kept.bin").write_text("old")
    made.path("parts/a.bin").write_text("old")
    return made


def change(draft):
    draft.path("kept.bin").write_text("new")
    draft.path("made/b.bin").write_text("new")
    draft.remove("parts/a.bin")
    draft.manifest.name = "new"
    draft.manifest.parities.append({"step": "b"})
    draft.manifest.extra["warnings"].append("two")
    draft.manifest.extra["left"] = 1


def files(draft):
    return {str(p.relative_to(draft.folder)): p.read_text() for p in draft.folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_all_as_it_was_and_goes_on(draft, error):
    parities = draft.manifest.parities
    with pytest.raises(error), undone_on_error(draft):
        change(draft)
        raise error
    assert files(draft) == {"kept.bin": "old", "parts/a.bin": "old"}
    assert sorted(p.name for p in draft.folder.iterdir()) == ["kept.bin", "parts"]
    assert draft.manifest.name == "" and draft.manifest.extra == {"warnings": ["one"]}
    assert draft.manifest.parities is parities and parities == [{"step": "a"}]
    draft.path("kept.bin").write_text("later")
    assert draft.read("kept.bin") == b"later"


def test_what_comes_to_its_end_stays(draft):
    with undone_on_error(draft):
        change(draft)
    assert files(draft) == {"kept.bin": "new", "made/b.bin": "new"}
    assert draft.manifest.name == "new" and len(draft.manifest.parities) == 2


def test_undone_twice(draft):
    for _ in range(2):
        with pytest.raises(ValueError), undone_on_error(draft):
            change(draft)
            raise ValueError
    assert files(draft) == {"kept.bin": "old", "parts/a.bin": "old"}
