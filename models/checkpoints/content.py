"""What a checkpoint file holds: all its tensors, by where they are, and what the training script tells beside them."""

import argparse
import fnmatch
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from plainconv.exporter.errors import CheckpointError

from .files import read_content
from .keys import without_wrappers
from .stand_ins import Array

DEEPEST = 8  # entries in entries that are looked through for tensors
MOST = 1_000_000  # entries that are looked at


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: of the file.
        sha256: of the file.
        tensors: all of them, by the path of keys to each, joined by dots; they may be mapped from the file, so copy
            before writing to them.
        holders: the path of the dict that each tensor is in.
        others: the entries of each such dict that are no tensors.
        epoch: the training script's, where the file has one.
        args: the training script's, where the file has them.
        classes: their names in the order of the outputs, where the file has them.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    holders: Mapping[str, str]
    others: Mapping[str, Sequence[str]]
    epoch: int | None
    args: Mapping[str, Any]
    classes: tuple[str, ...] = ()


def read_checkpoint(path: Path | str, *, key: str | None = None, drop: Sequence[str] = ()) -> Checkpoint:
    """Read a checkpoint file, see `read_content`.

    Args:
        path: of the file.
        key: the entry, or the prefix of keys, that holds the weights; all else is left out.
        drop: patterns of keys to leave out, as a shell has them: `head.*`.

    Raises:
        CheckpointError: as `read_content` does; or there are no tensors in it, or `key` or `drop` name nothing.
    """
    path = Path(path)
    sha256, content = read_content(path)
    tensors: dict[str, Tensor] = {}
    holders: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    for holder, name, value in _entries(path.name, content):
        if isinstance(value, Tensor):
            entry = _joined(holder, name)
            tensors[entry], holders[entry] = value.detach(), holder
        else:
            others.setdefault(holder, []).append(name)
    if not tensors:
        found = some([str(name) for name in content]) or "nothing"
        raise CheckpointError(f"{path.name}: no weights in it, found {found}; wanted a state dict, at any key")
    for pattern in drop:
        gone = [entry for entry in tensors if any(fnmatch.fnmatchcase(s, pattern) for s in _spellings(entry, holders))]
        if not gone:
            raise CheckpointError(f"{path.name}: --drop {pattern} fits no key, found {some(list(tensors))}")
        for entry in gone:
            del tensors[entry]
    if key is not None:
        kept = [entry for entry in tensors if any(s.startswith(f"{key}.") for s in _spellings(entry, holders))]
        if not kept:
            entries = list(dict.fromkeys(holders[entry] or entry.partition(".")[0] for entry in tensors))
            raise CheckpointError(f"{path.name}: --key {key} names no entry with weights, found {some(entries)}")
        tensors = {entry: tensors[entry] for entry in kept}
    if not tensors:
        raise CheckpointError(f"{path.name}: --drop {' --drop '.join(drop)} leaves nothing; leave one out")
    epoch, args = content.get("epoch"), content.get("args")
    return Checkpoint(
        path=path,
        sha256=sha256,
        tensors=tensors,
        holders=holders,
        others=others,
        epoch=epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None,
        args=vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, Mapping) else {},
        classes=_classes(content),
    )


def some(names: Sequence[str]) -> str:
    """Return the first few names, in one line, and how many more there are."""
    shown = ["".join(c if c.isprintable() else "?" for c in name)[:80] for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _classes(content: Mapping[Any, Any]) -> tuple[str, ...]:
    """The names of classes, where training scripts put them: a list, or a dict from 0 on."""
    meta = content.get("meta")
    sections = (content, meta, meta.get("dataset_meta") if isinstance(meta, Mapping) else None)
    for section in sections:
        for key in ("names", "CLASSES", "classes") if isinstance(section, Mapping) else ():
            names = section.get(key)  # type: ignore[union-attr]
            if isinstance(names, Mapping) and list(names) == list(range(len(names))):
                names = list(names.values())
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) and name for name in names):
                return tuple(names)
    return ()


def _spellings(entry: str, holders: Mapping[str, str]) -> tuple[str, ...]:
    """Return how a user may write an entry: whole, or as its dict has it, with what wrappers put in or without."""
    inner = entry.removeprefix(f"{holders[entry]}.") if holders[entry] else entry
    return entry, inner, without_wrappers(entry), without_wrappers(inner)


def _joined(holder: str, name: str) -> str:
    return f"{holder}.{name}" if holder else name


def _entries(file: str, content: Mapping[Any, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield every entry that holds no others, as the path to its dict, its key and its value; arrays as tensors.

    Of lists only what may hold tensors: a network's weights lie in dicts, a history's numbers in lists.
    """
    waiting: deque[tuple[str, int, Any]] = deque([("", 0, content)])
    lists: set[int] = set()
    looked = 0
    while waiting:
        holder, depth, values = waiting.popleft()
        in_list = not isinstance(values, Mapping)
        looked += 0 if in_list else len(values)
        if looked > MOST:
            raise CheckpointError(f"{file}: holds more than {MOST} entries; wanted one network's")
        for name, given in enumerate(values) if in_list else values.items():
            value = given.tensor() if isinstance(given, Array) else given
            if isinstance(value, list | tuple):
                if id(value) not in lists and depth < DEEPEST:
                    lists.add(id(value))
                    waiting.append((_joined(holder, str(name)), depth + 1, value))
            elif isinstance(value, Mapping):
                if depth < DEEPEST:
                    waiting.append((_joined(holder, str(name)), depth + 1, value))
            elif isinstance(value, Tensor) or not in_list:
                yield holder, str(name), value
