"""The models of a server: which are loaded, loading and unloading them, and a new version in the place of an old one.

A new version is loaded beside the old one, then takes its place in one step; the old one answers those who had it and
closes after the last. Where the new one does not load, the old one stays.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plainconv.exporter.bundle import identity
from plainconv.exporter.errors import EngineError, PlainconvError

from .model import Model
from .places import Places
from .refusals import FailedError, UnavailableError, UnknownError, shown

_log = logging.getLogger("plainconv.serving")
READY, UNAVAILABLE = "READY", "UNAVAILABLE"
_LOST = "its device was lost"
Opener = Callable[[str, Path], Model]


@dataclass(frozen=True)
class Entry:
    """What is known of a model: where it is, whether it is loaded, else why not; the files that did not load.

    One whose device was lost is loaded, but takes no requests.
    """

    folder: Path
    model: Model | None = None
    reason: str = ""
    refused: tuple[Any, ...] | None = None


class Store:
    """The models of a server. From any thread; loads are one at a time."""

    def __init__(self, places: Places, opener: Opener) -> None:
        """`opener` gives the model of a name and folder, or raises PlainconvError."""
        self._places, self._open = places, opener
        self._entries: dict[str, Entry] = {}
        self._leaving: list[Model] = []  # retired, and perhaps in use still
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._lost: set[Model] = set()  # and said so

    def load_all(self) -> None:
        """Load every model there is. Raises what the first that does not load raises, if none does."""
        first: PlainconvError | None = None
        names = self._places.names()
        for name in names:
            try:
                self._load(name, self._places.folder(name), is_only=len(names) == 1)
            except PlainconvError as error:
                first = first or error
        if first and not self.ready():
            raise first

    def load(self, name: str) -> None:
        """Load a model, or the version of it that is there now. Raises UnknownError, and FailedError where it fails."""
        folder = self._places.folder(name)
        try:
            self._load(name, folder)
        except PlainconvError:
            raise FailedError(f"model {shown(name)} cannot be loaded; the server's log says why") from None

    def unload(self, name: str) -> None:
        """Answer who has it, then close it; later requests find none. Raises UnknownError where it is not loaded."""
        with self._loading, self._lock:
            entry = self._entries.get(name)
            if entry is None or entry.model is None:
                raise UnknownError(f"there is no model {shown(name)} to unload")
            self._entries[name] = Entry(entry.folder, reason="unloaded")
            self._retire(entry.model)

    def refresh(self) -> None:
        """Load anew what was replaced on disk."""
        for name, entry in list(self._entries.items()):
            known = entry.model.sha256 if entry.model else None
            if known is None and entry.refused is None:
                continue  # it was unloaded
            now = identity(entry.folder)
            if now is None or now == known or (entry.refused is not None and _files(entry.folder) == entry.refused):
                continue
            try:
                self._load(name, entry.folder)
            except PlainconvError:
                continue  # it is in the log; what was there is still served
            _log.warning("model %s: reloaded, %s in the place of %s", name, now[:12], (known or "none")[:12])

    @contextmanager
    def use(self, name: str) -> Iterator[Model]:
        """The model, open as long as the block. Raises UnknownError, and UnavailableError where it is not loaded."""
        with self._lock:
            held = self._loaded(name).use()
            model = held.__enter__()
        try:
            yield model
        finally:
            held.__exit__(None, None, None)

    def model(self, name: str) -> Model:
        """What is loaded under that name, to look at. Raises as `use` does."""
        with self._lock:
            return self._loaded(name)

    def ready(self) -> tuple[str, ...]:
        """The names of those that are loaded and can compute."""
        entries = list(self._entries.items())
        return tuple(name for name, entry in entries if entry.model and not self._is_lost(name, entry.model))

    def known(self) -> tuple[str, ...]:
        """The names of those that were loaded once, or did not load."""
        return tuple(self._entries)

    def index(self) -> list[Mapping[str, str]]:
        """Every model there is, as the protocol's repository index lists it."""
        rows: list[Mapping[str, str]] = []
        ready = self.ready()
        for name in sorted({*self._places.names(), *self._entries}):
            entry = self._entries.get(name)
            reason = _LOST if entry and entry.model and name not in ready else entry.reason if entry else ""
            state = READY if name in ready else UNAVAILABLE
            rows.append({"name": name, "version": "1", "state": state, "reason": reason})
        return rows

    def waiting(self) -> dict[str, int]:
        """How many requests wait for each model."""
        return {name: entry.model.batcher.waiting for name, entry in list(self._entries.items()) if entry.model}

    def close(self, timeout_s: float = 30.0) -> None:
        """Retire every model and wait until all there were are closed, for so long at most; a second time for none."""
        with self._loading, self._lock:
            for entry in self._entries.values():
                if entry.model:
                    self._retire(entry.model)
            self._entries = {name: Entry(entry.folder, reason="closed") for name, entry in self._entries.items()}
            leaving, self._leaving = self._leaving, []
        end = time.monotonic() + timeout_s
        for model in leaving:
            model.closed.wait(max(0.0, end - time.monotonic()))

    def _retire(self, model: Model) -> None:
        self._leaving = [each for each in self._leaving if not each.closed.is_set()] + [model]
        model.retire()

    def _loaded(self, name: str) -> Model:
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownError(f"there is no model {shown(name)}; see /v2/models")
        if entry.model is None:
            raise UnavailableError(f"model {shown(name)} is not loaded ({entry.reason})")
        if self._is_lost(name, entry.model):
            raise UnavailableError(f"model {shown(name)} cannot compute any more ({_LOST})")
        return entry.model

    def _is_lost(self, name: str, model: Model) -> bool:
        """Whether its device was lost, which the log is told once."""
        if not model.lost:
            return False
        if model not in self._lost:
            self._lost.add(model)
            _log.error("model %s: %s; it is not ready any more: start the server again", name, _LOST)
        return True

    def _load(self, name: str, folder: Path, *, is_only: bool = False) -> None:
        """Why a model does not load goes to the log; that of the only one ends the server, which then says it."""
        with self._loading:
            entry = self._entries.get(name) or Entry(folder)
            files = _files(folder)
            if entry.model and identity(folder) == entry.model.sha256 and not entry.model.lost:
                return
            try:
                model = self._open(name, folder)
            except Exception as error:
                said = error if isinstance(error, PlainconvError) else f"{type(error).__name__}: {error}"
                if not (is_only and isinstance(error, PlainconvError)):
                    _log.error("model %s: %s", name, said)
                with self._lock:
                    self._entries[name] = replace(entry, reason="it cannot be loaded", refused=files)
                if isinstance(error, PlainconvError):
                    raise
                raise EngineError(f"{folder}: cannot be loaded ({said}); is the bundle for this machine?") from error
            with self._lock:
                self._entries[name] = Entry(folder, model)
                if entry.model:
                    self._retire(entry.model)


def _files(folder: Path) -> tuple[Any, ...]:
    """What tells the files of a bundle from what they were: where one is copied file by file, the manifest comes first.

    Files that vanish meanwhile are as good as changed.
    """
    with contextlib.suppress(OSError):
        found = [(path, path.lstat()) for path in sorted(folder.rglob("*"))]
        return tuple((path, each.st_ino, each.st_size, each.st_mtime_ns) for path, each in found)
    return ()


class Watcher:
    """Looks every so often for what was replaced on disk, in a thread of its own."""

    def __init__(self, every_s: float, *looks: Callable[[], object]) -> None:
        """0 is never."""
        self._looks, self._every_s = looks, every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        if every_s:
            self._thread.start()

    def close(self) -> None:
        """End it, once what is being loaded is loaded. Closing twice does nothing."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(self._every_s):
            for look in self._looks:
                try:
                    look()
                except Exception:
                    _log.exception("what was replaced on disk could not be looked at")
