"""Where the models are: one bundle, or a folder of bundles, which no name leads out of."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from plainconv.exporter.bundle import MANIFEST
from plainconv.exporter.errors import BundleError

from .refusals import UnknownError, shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")


@dataclass(frozen=True)
class Places:
    """The folder of each model: `only` has those that are served, or `root` the folder whose bundles are."""

    only: tuple[tuple[str, Path], ...] = ()
    root: Path | None = None

    def names(self) -> tuple[str, ...]:
        """Every model there is now."""
        if self.root is None:
            return tuple(name for name, _ in self.only)
        with contextlib.suppress(OSError):  # it is behind a link, perhaps, that leads nowhere just now
            return tuple(sorted(path.name for path in self.root.iterdir() if _is_model(path)))
        return ()

    def folder(self, name: str) -> Path:
        """The bundle of that name. Raises UnknownError where there is none, or the name leads elsewhere."""
        found = dict(self.only).get(name)
        if found is None and self.root is not None and NAME.fullmatch(name) and _is_model(self.root / name):
            found = self.root / name
        if found is None:
            raise UnknownError(f"there is no model {shown(name)} in the repository")
        return found


def places_of(path: Path, name: str = "", default: str = "") -> Places:
    """What `exporter serve PATH --name NAME` serves: the bundle there, or the bundles in it.

    `default` is what the bundle says its name is. Raises BundleError where there is neither, or a name that no URL
    could hold.
    """
    if (path / MANIFEST).exists() or not path.is_dir():
        chosen = name or re.sub(r"[^A-Za-z0-9_.+-]+", "_", default).strip("_.+-")[:128] or "model"
        if not NAME.fullmatch(chosen):
            raise BundleError(f"{chosen!r} is no name of a model; wanted letters, digits and _ . + - after the first")
        return Places(only=((chosen, path),))
    if name:
        raise BundleError(f"{path} is a folder of bundles, which have names of their own; leave --name out")
    places = Places(root=path.absolute())  # a link is followed at each look: it may be pointed elsewhere
    if not places.names():
        raise BundleError(f"{path} holds neither a bundle nor folders that do; give what `exporter run` wrote")
    return places


def _is_model(path: Path) -> bool:
    """Whether that is a bundle's folder, and no link to one elsewhere."""
    return bool(NAME.fullmatch(path.name)) and not path.is_symlink() and (path / MANIFEST).is_file()
