"""The models of a server: loading, unloading, and a new version in the place of an old one."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainconv.engines.serving.model import Model, open_model
from plainconv.engines.serving.options import ServeOptions
from plainconv.engines.serving.places import places_of
from plainconv.engines.serving.refusals import FailedError, UnavailableError, UnknownError
from plainconv.engines.serving.store import Store, Watcher
from plainconv.exporter.bundle import Bundle, update_bundle
from plainconv.exporter.errors import BundleError, EngineError

LONG_S = 60.0
OPTIONS = ServeOptions(engine="onnxruntime", threads=1)
X = np.array([[1, 2, 3, 4]], np.float32)


def answer(model: Model) -> Any:
    return model.batcher.submit({"x": X}, time.monotonic() + LONG_S).result(LONG_S).outputs["y"].tolist()


@pytest.fixture
def store_of() -> Iterator[Callable[[Path], Store]]:
    """Stores with every model loaded; they are closed with the test."""
    made: list[Store] = []

    def new(path: Path) -> Store:
        name = path.name if (path / "manifest.json").exists() else ""
        made.append(Store(places_of(path, name), lambda name, folder: open_model(folder, OPTIONS, lambda *run: None)))
        made[-1].load_all()
        return made[-1]

    yield new
    for store in made:
        store.close()


def test_load_and_unload(make: Callable[..., Path], tmp_path: Path, store_of: Callable[[Path], Store]) -> None:
    """Given two bundles -> both serve; one unloaded is not there for new users, and can be loaded again."""
    make(tmp_path / "a")
    make(tmp_path / "b", scale=2)
    store = store_of(tmp_path)
    with store.use("a") as a, store.use("b") as b:
        assert (answer(a), answer(b)) == ([[3, 7]], [[6, 14]])
    store.unload("a")
    assert a.closed.wait(LONG_S)
    with pytest.raises(UnavailableError, match=r"model 'a' is not loaded \(unloaded\)"), store.use("a"):
        pass
    with pytest.raises(UnknownError, match="there is no model 'a' to unload"):
        store.unload("a")
    assert [(row["name"], row["state"]) for row in store.index()] == [("a", "UNAVAILABLE"), ("b", "READY")]
    store.refresh()
    assert store.ready() == ("b",)
    store.load("a")
    with store.use("a") as a:
        assert answer(a) == [[3, 7]]


def test_who_has_a_model_keeps_it(make: Callable[..., Path], tmp_path: Path, store_of: Callable[[Path], Store]) -> None:
    """Given a user of a model that is unloaded -> it answers until it is given back, then closes."""
    store = store_of(make(tmp_path / "b"))
    with store.use("b") as model:
        store.unload("b")
        assert answer(model) == [[3, 7]] and not model.closed.is_set()
    assert model.closed.wait(LONG_S)


def test_a_replaced_bundle(make: Callable[..., Path], tmp_path: Path, store_of: Callable[[Path], Store]) -> None:
    """Given another bundle in the place of one -> new users get the new, who has the old keeps it."""
    store = store_of(make(tmp_path / "b"))
    with store.use("b") as old:
        make(tmp_path / "b", scale=3, force=True)
        store.refresh()
        with store.use("b") as new:
            assert (answer(old), answer(new)) == ([[3, 7]], [[9, 21]])
    assert old.closed.wait(LONG_S) and not new.closed.is_set()
    store.refresh()
    assert store.model("b") is new


def test_a_new_version_that_does_not_load(
    make: Callable[..., Path],
    tmp_path: Path,
    store_of: Callable[[Path], Store],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Given a broken bundle in the place of one -> the old one stays, and is not tried again until it changes."""
    store = store_of(make(tmp_path / "b"))
    make(tmp_path / "b", scale=3, force=True)
    (tmp_path / "b" / "model.onnx").write_bytes(b"broken")
    with caplog.at_level(logging.ERROR, "plainconv.serving"):
        store.refresh()
        store.refresh()
    assert len(caplog.records) == 1 and "model.onnx" in caplog.text
    with store.use("b") as model:
        assert answer(model) == [[3, 7]]
    with pytest.raises(FailedError, match=r"^model 'b' cannot be loaded; the server's log says why$"):
        store.load("b")
    make(tmp_path / "c", scale=4)
    (tmp_path / "b").rename(tmp_path / "broken")
    (tmp_path / "c").rename(tmp_path / "b")
    store.refresh()
    with store.use("b") as model:
        assert answer(model) == [[12, 28]]


def test_a_folder_where_one_does_not_load(
    make: Callable[..., Path], tmp_path: Path, store_of: Callable[[Path], Store]
) -> None:
    """Given a broken bundle beside a sound one -> the sound one serves; where none is sound, its error is raised."""
    make(tmp_path / "a")
    broken = make(tmp_path / "b")
    (broken / "model.onnx").write_bytes(b"broken")
    store = store_of(tmp_path)
    assert store.ready() == ("a",)
    assert store.index()[1] == {"name": "b", "version": "1", "state": "UNAVAILABLE", "reason": "it cannot be loaded"}
    with pytest.raises(UnavailableError, match="it cannot be loaded"), store.use("b"):
        pass
    with pytest.raises(Exception, match=r"model\.onnx has 6 bytes"):
        store_of(broken)


def test_unknown_models(make: Callable[..., Path], tmp_path: Path, store_of: Callable[[Path], Store]) -> None:
    store = store_of(make(tmp_path / "b"))
    for call in (store.load, store.unload, store.model):
        with pytest.raises(UnknownError, match=r"there is no model '\.\./b'"):
            call("../b")


def test_replaced_while_it_is_loaded(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a bundle that is replaced between its opening and the loading of its files -> the new one, as a whole."""
    from plainconv.engines.serving import backend as module

    folder, real = make(tmp_path / "b"), module.load
    calls = []

    def load(bundle: Bundle, *arguments: Any, **options: Any) -> Any:
        calls.append(bundle.sha256)
        if len(calls) == 1:
            make(folder, scale=5, force=True)
        return real(bundle, *arguments, **options)

    monkeypatch.setattr(module, "load", load)
    model = open_model(folder, OPTIONS, lambda *run: None)
    assert answer(model) == [[15, 35]] and model.sha256 == calls[1] == Bundle.open(folder).sha256
    model.retire()
    assert model.closed.wait(LONG_S)


def test_a_bundle_that_says_something_else(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a manifest whose outputs are not the graph's -> found when it is loaded, not at the first request."""
    folder = make(tmp_path / "b")
    with update_bundle(folder) as draft:
        (spec,) = draft.manifest.outputs
        draft.manifest.outputs = (type(spec)("z", spec.dtype, spec.shape),)
    with pytest.raises(EngineError, match="gives nothing as z, its manifest says z float32"):
        open_model(folder, OPTIONS, lambda *run: None)


def test_the_watcher(make: Callable[..., Path], tmp_path: Path, store_of: Callable[[Path], Store]) -> None:
    """Given a replaced bundle -> it is noticed without being told; closed, nothing is."""
    store = store_of(make(tmp_path / "b"))
    before = store.model("b")
    watcher = Watcher(0.01, store.refresh)
    make(tmp_path / "b", scale=3, force=True)
    end = time.monotonic() + LONG_S
    while store.model("b") is before and time.monotonic() < end:
        time.sleep(0.01)
    assert answer(store.model("b")) == [[9, 21]]
    watcher.close()
    assert not any(thread.name == "watcher" for thread in threading.enumerate())
    Watcher(0, store.refresh).close()


def test_the_only_bundle_that_does_not_load_is_said_once(
    make: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Given one bundle that nothing runs -> its reason is raised, for who started the server, and not logged too."""

    def refuse(name: str, folder: Path) -> Model:
        raise EngineError("nothing here runs it")

    make(tmp_path / "a")
    with pytest.raises(EngineError, match="nothing here runs it"):
        Store(places_of(tmp_path / "a", "a"), refuse).load_all()
    assert caplog.records == []


def test_closing_waits_for_what_was_replaced(
    make: Callable[..., Path], tmp_path: Path, store_of: Callable[[Path], Store]
) -> None:
    """Given a version that was replaced and is in use -> the store is closed once that one is, too."""
    folder = make(tmp_path / "a")
    store = store_of(folder)
    with store.use("a") as old:
        make(folder, scale=2, force=True)
        store.refresh()
        closing = threading.Thread(target=store.close)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
    closing.join(LONG_S)
    assert old.closed.is_set() and not closing.is_alive()


def test_closing_again_waits_for_nothing(
    make: Callable[..., Path], tmp_path: Path, store_of: Callable[[Path], Store]
) -> None:
    """Given a store that was closed without waiting for who has a model -> to close it again does not wait either."""
    store = store_of(make(tmp_path / "a"))
    with store.use("a") as held:
        store.close(timeout_s=0)
        again = threading.Thread(target=store.close, args=(10 * LONG_S,))
        again.start()
        again.join(LONG_S)
        assert not again.is_alive() and not held.closed.is_set()
    assert held.closed.wait(LONG_S)


def test_a_device_that_is_lost(
    make: Callable[..., Path],
    tmp_path: Path,
    store_of: Callable[[Path], Store],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given a runner that lost its device -> its model is not ready, said once; loaded again, it is."""
    make(tmp_path / "a")
    store = store_of(tmp_path)
    model = store.model("a")
    assert store.ready() == ("a",) and not model.lost
    runner = model._run_by._runner  # type: ignore[attr-defined]
    with monkeypatch.context() as lost, caplog.at_level(logging.ERROR, "plainconv.serving"):
        lost.setattr(type(runner), "lost", True)
        for _ in range(3):
            assert store.ready() == ()
            with pytest.raises(UnavailableError, match="its device was lost"), store.use("a"):
                pass
        assert len(caplog.records) == 1 and "model a: its device was lost" in caplog.text
        assert store.index()[0]["state"] == "UNAVAILABLE" and store.index()[0]["reason"] == "its device was lost"
    store.load("a")
    with store.use("a") as another:
        assert answer(another) == [[3, 7]]


def test_a_bundle_that_is_copied_file_by_file(
    make: Callable[..., Path], tmp_path: Path, store_of: Callable[[Path], Store], caplog: pytest.LogCaptureFixture
) -> None:
    """Given a new manifest before the files that it lists -> the old version stays until they are there."""
    store = store_of(make(tmp_path / "b"))
    new = make(tmp_path / "new", scale=3)
    for file in sorted(new.iterdir()):
        with store.use("b") as model:
            assert answer(model) == [[3, 7]]
        (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
        store.refresh()
        store.refresh()
    with store.use("b") as model:
        assert answer(model) == [[9, 21]]
    assert "model.onnx" in caplog.text and len(caplog.records) == 2


def test_a_link_that_is_pointed_elsewhere_and_back(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a link that means another bundle while the files of one are read -> the one, as a whole."""
    from plainconv.engines.serving import backend as module

    make(tmp_path / "one")
    make(tmp_path / "two", scale=2)
    link, real = tmp_path / "b", module.load
    link.symlink_to("one")

    def point_to(target: str) -> None:
        link.unlink()
        link.symlink_to(target)

    def load(*arguments: Any, **options: Any) -> Any:
        point_to("two")
        try:
            return real(*arguments, **options)
        finally:
            point_to("one")

    monkeypatch.setattr(module, "load", load)
    model = open_model(link, OPTIONS, lambda *run: None)
    assert answer(model) == [[3, 7]] and model.sha256 == Bundle.open(tmp_path / "one").sha256
    assert model.report == tmp_path / "b.html"
    model.retire()
    assert model.closed.wait(LONG_S)


@pytest.mark.parametrize("what", ["a pipe", "a link", "other bytes"])
def test_a_file_that_is_swapped_once_it_was_verified(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Given another thing in the place of a file before the runtime reads it -> refused, and nobody waits for it."""
    from plainconv.engines.serving import backend as module

    onnx, real = make(tmp_path / "b") / "model.onnx", module.load
    other = make(tmp_path / "other", scale=2) / "model.onnx"

    def load(*arguments: Any, **options: Any) -> Any:
        onnx.unlink()
        if what == "a pipe":
            os.mkfifo(onnx)
        elif what == "a link":
            onnx.symlink_to(other)
        else:
            onnx.write_bytes(other.read_bytes())
        return real(*arguments, **options)

    monkeypatch.setattr(module, "load", load)
    with pytest.raises(BundleError, match=r"model\.onnx (is a|was changed since)"):
        open_model(tmp_path / "b", OPTIONS, lambda *run: None)
