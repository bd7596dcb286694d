"""Where the models are, and that no name leads elsewhere."""

from collections.abc import Callable
from pathlib import Path

import pytest

from plainconv.engines.serving.places import places_of
from plainconv.engines.serving.refusals import UnknownError
from plainconv.exporter.bundle import Bundle, identity
from plainconv.exporter.errors import BundleError


def test_one_bundle(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a bundle -> a model of the name given, else of its network's."""
    bundle = make(tmp_path / "b")
    assert places_of(bundle, "v6").names() == ("v6",)
    assert places_of(bundle, default="small net").names() == ("small_net",)
    assert places_of(bundle, default="///").names() == ("model",)
    assert places_of(bundle, "v6").folder("v6") == bundle


def test_a_folder_of_bundles(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a folder -> its bundles by the names of their folders, and those that come later."""
    make(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    places = places_of(tmp_path)
    assert places.names() == ("a",)
    make(tmp_path / "b-1.2")
    assert places.names() == ("a", "b-1.2") and places.folder("b-1.2").samefile(tmp_path / "b-1.2")


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../a", "a/", "/etc", "a/../a", "a\0", "A", "ä", ".hidden", "empty", "link", "a" * 200]
)
def test_names_that_lead_elsewhere(make: Callable[..., Path], tmp_path: Path, name: str) -> None:
    """Given a folder of bundles -> no name reaches what is no bundle of it, nor one through a link."""
    make(tmp_path / "elsewhere" / "a")
    store = tmp_path / "store"
    make(store / "a")
    (store / "empty").mkdir()
    make(store / ".hidden")
    (store / "link").symlink_to(tmp_path / "elsewhere" / "a")
    places = places_of(store)
    assert places.names() == ("a",) and places.folder("a")
    with pytest.raises(UnknownError, match="there is no model"):
        places.folder(name)


@pytest.mark.parametrize(
    ("name", "said"), [("a/b", "'a/b' is no name of a model"), (".a", "is no name"), ("x" * 129, "is no name")]
)
def test_a_bad_name(make: Callable[..., Path], tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        places_of(make(tmp_path / "b"), name)


def test_nothing_to_serve(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds neither a bundle nor folders that do"):
        places_of(tmp_path)
    make(tmp_path / "a")
    with pytest.raises(BundleError, match="have names of their own; leave --name out"):
        places_of(tmp_path, "b")


def test_identity(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a bundle -> its hash; half a manifest -> None."""
    bundle = make(tmp_path / "b")
    assert identity(bundle) == Bundle.open(bundle).sha256
    text = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.json").write_bytes(text[: len(text) // 2])
    assert identity(bundle) is None and identity(tmp_path / "none") is None


def test_a_folder_behind_a_link(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a link to a folder of bundles that is pointed to another -> the other's; to nothing -> none."""
    make(tmp_path / "one" / "a")
    make(tmp_path / "two" / "b")
    link = tmp_path / "current"
    link.symlink_to("one")
    places = places_of(link)
    for target, wanted in (("one", ("a",)), ("two", ("b",)), ("none", ()), ("current", ())):
        link.unlink()
        link.symlink_to(target)
        assert places.names() == wanted
