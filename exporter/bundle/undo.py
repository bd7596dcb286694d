"""Part of what is written to a draft taken back, where it does not come to an end."""

import contextlib
import copy
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .writer import Draft

_ASIDE = ".undo"
"""A folder in the draft's: no bundle may hold a file of that name."""


@contextlib.contextmanager
def undone_on_error(draft: "Draft") -> Iterator[None]:
    """Within it, what an error interrupts is taken back: files and manifest are as they were, and the error goes on.

    The files are kept aside as hard links, or as copies where the file system has none.
    """
    manifest, aside = draft.manifest, draft.folder / _ASIDE
    kept = {**vars(manifest), "extra": copy.deepcopy(manifest.extra)}
    parities = list(manifest.parities)
    names = [p.relative_to(draft.folder) for p in draft.folder.rglob("*") if p.is_file()]
    for name in names:
        place = aside / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(draft.folder / name, place)
        except OSError:
            shutil.copy2(draft.folder / name, place)
    draft.write_anew(name.as_posix() for name in names)
    try:
        yield
    except BaseException:
        for path in draft.folder.iterdir():
            if path != aside:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in names:
            (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).replace(draft.folder / name)
        draft.write_anew(name.as_posix() for name in names)
        vars(manifest).update(kept)
        manifest.parities[:] = parities
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
