"""What a pickle names, asks for and how deep it nests, read off its opcodes without running them."""

import io
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .stand_ins import HARMLESS, TORCHS_OWN

PICKLES_IN_LEGACY_FILE = 5  # torch.save before 1.6: magic number, protocol, system, the object, storage keys
DEEPEST = 100  # containers in containers; a training script's own stay below 20, and deeper ones can crash Python


@dataclass(frozen=True)
class PickleScan:
    """The functions and classes that pickles name, the storages they ask for, and whether they end as they should.

    `storages` maps each record's key to its type's name and number of elements, where it asks for most.
    """

    names: tuple[str, ...]
    storages: Mapping[str, tuple[str, int]]
    deep: bool
    whole: bool

    @property
    def foreign(self) -> tuple[str, ...]:
        """The names that no checkpoint needs; which of torch's own are harmless, torch.load knows."""
        known = (*TORCHS_OWN, *HARMLESS)
        return tuple(name for name in self.names if not name.startswith("torch.") and name not in known)


def scan_pickles(path: Path) -> PickleScan:
    """Scan up to five pickles at the start of the file."""
    with path.open("rb") as file:
        return _scan(file, PICKLES_IN_LEGACY_FILE)


def scan_pickle(content: bytes) -> PickleScan:
    """Scan one pickle, that of a zipped checkpoint."""
    with io.BufferedReader(io.BytesIO(content)) as file:
        return _scan(file, 1)


def _scan(file: Any, pickles: int) -> PickleScan:
    machine = _Machine()
    try:
        for _ in range(pickles):
            if not file.peek(1):
                break
            machine.run(file)
    except Exception:  # genops raises whatever a broken opcode leads to
        return PickleScan(tuple(machine.names), machine.storages, machine.deep, whole=False)
    return PickleScan(tuple(machine.names), machine.storages, machine.deep, whole=True)


class _TooDeepError(Exception):
    pass


_MARK = (0, "mark")
_FILLS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_HOLDS = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT", "FROZENSET"})
# name → how many values it takes, whether all down to the mark besides, how many it leaves
_EFFECTS = {
    op.name: (
        sum(kind not in (pickletools.markobject, pickletools.stackslice) for kind in op.stack_before),
        pickletools.stackslice in op.stack_before or op.name == "POP_MARK",
        len(op.stack_after),
    )
    for op in pickletools.opcodes
}
_QUICK = {name: "push" for name, effect in _EFFECTS.items() if effect == (0, False, 1)} | {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), "put"),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), "get"),
    "GLOBAL": "name",
    "MARK": "mark",
}


@dataclass
class _Machine:
    """The stack of a pickle, each value as (depth, what it is), where that is a string, a number or a storage's id."""

    names: dict[str, None] = field(default_factory=dict)  # a set in order
    storages: dict[str, tuple[str, int]] = field(default_factory=dict)
    deep: bool = False

    def run(self, file: Any) -> None:
        """Follow one pickle to its end."""
        stack: list[tuple[int, Any]] = []
        memo: dict[Any, tuple[int, Any]] = {}
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            effect = _QUICK.get(name)
            if effect == "put":
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif effect == "push":
                stack.append((0, argument))
            elif effect == "get":
                stack.append(memo[argument])
            elif effect == "mark":
                stack.append(_MARK)
            elif effect == "name":
                stack.append((0, self._named(*str(argument).split(" ", 1))))
            else:
                takes, slices, leaves = _EFFECTS[name]
                if name == "INST":
                    self._named(*str(argument).split(" ", 1))
                items = self._taken(stack, takes, slices)
                if leaves:
                    stack.extend([self._result(name, argument, items)] * leaves)

    def _taken(self, stack: list[tuple[int, Any]], takes: int, slices: bool) -> list[tuple[int, Any]]:
        start = len(stack)
        if slices:
            start -= 1
            while stack[start] is not _MARK:
                start -= 1
            del stack[start]
        if start < takes:
            raise ValueError("takes more than there is")
        start -= takes
        items = stack[start:]
        del stack[start:]
        return items

    def _result(self, name: str, argument: Any, items: list[tuple[int, Any]]) -> tuple[int, Any]:
        if name in _FILLS:
            deepest = max(items[0][0], 1 + max([depth for depth, _ in items[1:]], default=-1))
        else:
            deepest = max([depth for depth, _ in items], default=0) + (name in _HOLDS)
        if deepest > DEEPEST:
            self.deep = True
            raise _TooDeepError
        if name == "TUPLE" and len(items) in (5, 6):  # a storage's id; in legacy files with a view behind it
            return deepest, tuple(value for _, value in items)
        if name == "STACK_GLOBAL":
            return 0, self._named(*(str(value) for _, value in items))
        if name == "BINPERSID":
            self._asked(items[0][1])
        return deepest, argument

    def _named(self, module: str, name: str = "") -> str:
        """Note a name, one of Python 2 by its name of today: protocol 2 writes those still."""
        full = ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))
        self.names[full] = None
        return full

    def _asked(self, identity: Any) -> None:
        """Note a storage's id: ("storage", type, key, device, number of elements)."""
        match identity:
            case (_, str() as kind, str() as key, _, int() as size, *_):
                if size > self.storages.get(key, ("", -1))[1]:
                    self.storages[key] = (kind, size)
            case _:
                raise ValueError("a storage's id of another kind")
