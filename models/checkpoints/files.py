"""From a checkpoint file to what it holds, without running a byte of it."""

import hashlib
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plainconv.exporter.errors import CheckpointError

from .archive import Archive, ArchiveError, archive_at, content_of
from .pickle_scan import DEEPEST, PickleScan, scan_pickle, scan_pickles
from .stand_ins import stand_ins

ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
ITEM_SIZES = {  # bytes of an element of torch's typed storages; the untyped one counts bytes
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
OWN_LOADER = "FILE.py:CALLABLE may load a file itself that you trust, and return the network with its weights"


def read_content(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Read the sha256 and the whole content of a .pth, .pt or .safetensors file.

    What it is follows from its content, not from its name. Nothing in it is run: a pickle may name tensors, plain
    containers and what `stand_ins` lists. Tensors are mapped from the file where they lie in it as they are, so
    copy before writing to them.

    Raises:
        CheckpointError: the file cannot be read, is empty, truncated, not a checkpoint or would run code.
    """
    sha256, head = _digest_and_head(path)
    content: Any = _safetensors_content(path) if _is_safetensors(head) else _torch_content(path, head)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path.name}: holds a {type(content).__name__}; wanted a state dict, or a dict with one; {OWN_LOADER}"
        )
    return sha256, content


def _digest_and_head(path: Path) -> tuple[str, bytes]:
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise CheckpointError(f"{path}: is {what}; wanted a .pth, .pt or .safetensors file")
    try:
        with path.open("rb") as file:
            head = file.read(16)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; wanted a .pth, .pt or .safetensors checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); wanted a readable file") from None
    if not head:
        raise CheckpointError(f"{path.name}: is empty, 0 bytes; wanted a checkpoint; copy or download it again")
    return sha256, head


def _is_safetensors(head: bytes) -> bool:
    """Whether the file starts as the format does: the header's length, 8 bytes little-endian, then JSON."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000


def _safetensors_content(path: Path) -> dict[str, Tensor]:
    """Map the tensors. The library refuses offsets that overlap, leave a hole or end elsewhere than the file does."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: _aligned(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, RuntimeError, ValueError) as error:  # the latter two for a type that torch has not
        raise CheckpointError(f"{path.name}: {_damaged('safetensors', str(error))}") from None


def _aligned(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.data_ptr() % tensor.dtype.itemsize else tensor


def _torch_content(path: Path, head: bytes) -> Any:
    zipped = head.startswith(ZIP_MAGIC)
    mapped = _checked_archive(path).mappable if zipped else False
    if not zipped:
        scan = scan_pickles(path)
        _check_pickle(path, scan, head)
        if scan.whole and not scan.names:
            raise CheckpointError(
                f"{path.name}: is a pickle without tensors; wanted a checkpoint that torch.save wrote"
            )
    try:
        with torch.serialization.safe_globals(stand_ins()), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # of many kinds: whatever a broken file leads the unpickler to
        raise CheckpointError(f"{path.name}: {_torch_problem(str(error))}") from None


def _checked_archive(path: Path) -> Archive:
    """Compare the archive with its directory, and what its pickle asks for with both.

    Raises:
        CheckpointError: they do not agree, it is no archive of torch.save, or its pickle names what it must not.
    """
    try:
        archive = archive_at(path)
        pickle = content_of(path, archive.pickle) if archive.pickle else b""
    except ArchiveError as error:
        wanted = "wanted an archive as torch.save writes it; save it again"
        raise CheckpointError(f"{path.name}: is damaged or forged, its zip archive {error}; {wanted}") from None
    except Exception as error:  # of many kinds, for a damaged archive
        raise CheckpointError(f"{path.name}: {_damaged('torch.save', str(error))}") from None
    if archive.is_torchscript:
        wanted = "wanted a state dict: torch.save(network.state_dict(), FILE)"
        raise CheckpointError(f"{path.name}: is a TorchScript archive; {wanted}")
    if archive.pickle is None:
        raise CheckpointError(f"{path.name}: is a zip archive that torch.save did not write; wanted a checkpoint")
    scan = scan_pickle(pickle)
    _check_pickle(path, scan, PICKLE_MAGIC)
    for key, (kind, elements) in scan.storages.items():
        there, asked = archive.size_of_storage(key), elements * ITEM_SIZES.get(kind.rpartition(".")[2], 1)
        if there is None or not 0 <= asked <= there:
            found = "lacks it" if there is None else f"has {there} bytes of it"
            raise CheckpointError(
                f"{path.name}: is damaged, its pickle asks for {asked} bytes of data/{key}, the archive {found}; "
                "wanted a whole checkpoint; copy or download it again"
            )
    return archive


def _check_pickle(path: Path, scan: PickleScan, head: bytes) -> None:
    """Refuse a pickle, before it is read, for what it names and how deep it nests."""
    if scan.deep:
        raise CheckpointError(
            f"{path.name}: was refused: its pickle has containers more than {DEEPEST} deep in one another; wanted "
            "tensors in plain containers, as torch.save(network.state_dict(), FILE) writes them"
        )
    if not scan.whole and not head.startswith((ZIP_MAGIC[: len(head)], PICKLE_MAGIC)):
        raise CheckpointError(
            f"{path.name}: is no checkpoint, it starts with {head[:8]!r}; wanted a .pth, .pt or .safetensors file"
        )
    if scan.foreign:
        raise CheckpointError(f"{path.name}: {_refused(scan.foreign)}")


def _refused(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"was refused: its pickle names {names[0]}{more}, and loading a checkpoint runs no code; wanted tensors and "
        f"plain containers, as torch.save(network.state_dict(), FILE) writes them; {OWN_LOADER}"
    )


def _torch_problem(message: str) -> str:
    """Say in one line what torch.load said in many."""
    if named := re.search(r"GLOBAL ([\w.]+)", message):
        return _refused((named[1],))
    if "Invalid magic number" in message:
        return f"is a pickle that torch.save did not write; wanted a .pth, .pt or .safetensors file; {OWN_LOADER}"
    if "Unsupported operand" in message:
        return (
            "is pickled by a protocol that is not read; wanted the one that torch.save takes by itself: leave "
            f"pickle_protocol out; {OWN_LOADER}"
        )
    return _damaged("torch.save", message)


def _damaged(kind: str, message: str) -> str:
    cause = message.rpartition("WeightsUnpickler error:")[2].strip()  # behind torch's advice on weights_only
    first_line = cause.partition("\n")[0][:80] or "it ends too early"
    return f"is truncated or damaged ({kind}: {first_line}); wanted a whole checkpoint; copy or download it again"
