"""What a pickle names, read off its opcodes without running them."""

import pickletools
from dataclasses import dataclass
from pathlib import Path

PICKLES_IN_LEGACY_FILE = 5  # torch.save before 1.6: magic number, protocol, system, the object, storage keys


@dataclass(frozen=True)
class PickleScan:
    """The functions and classes that the pickles at the start of a file name, and whether they end as they should."""

    names: tuple[str, ...]
    whole: bool

    @property
    def foreign(self) -> tuple[str, ...]:
        """The names that no file of torch.save needs."""
        return tuple(name for name in self.names if not name.startswith(("torch.", "collections.", "argparse.")))


def scan_pickles(path: Path) -> PickleScan:
    """Scan up to five pickles at the start of the file."""
    names: list[str] = []
    strings: list[str] = []
    with path.open("rb") as file:
        for _ in range(PICKLES_IN_LEGACY_FILE):
            if not file.peek(1):
                break
            try:
                for opcode, argument, _ in pickletools.genops(file):
                    if opcode.name in ("GLOBAL", "INST"):
                        names.append(str(argument).replace(" ", "."))
                    elif opcode.name == "STACK_GLOBAL":
                        names.append(".".join(strings[-2:]))
                    elif isinstance(argument, str):
                        strings.append(argument)
            except Exception:  # genops raises whatever a broken opcode leads to
                return PickleScan(tuple(names), whole=False)
    return PickleScan(tuple(names), whole=True)
