"""From a checkpoint file to its tensors, without running a byte of it."""

import argparse
import hashlib
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plainconv.exporter.errors import CheckpointError

from .pickle_scan import scan_pickles

PLAIN_KEYS = ("model", "state_dict")  # where VanillaNet, timm and RepVGG keep the weights
EMA_KEYS = ("model_ema", "state_dict_ema", "ema")  # where they keep the averaged weights
BARE = "the file itself"
PREFIXES = ("module.", "_orig_mod.")  # put before every key by DistributedDataParallel and torch.compile

ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"


@dataclass(frozen=True)
class Checkpoint:
    """The weights that a file holds, and what it tells about them.

    `state` has finite, dense tensors on the CPU, their keys without `module.`; they may be mapped from the file, so
    copy before writing to them. `weights` names where in the file they were, `others` what else could have been chosen.
    `epoch` and `args` are the training script's, where the file has them.
    """

    path: Path
    sha256: str
    state: Mapping[str, Tensor]
    weights: str
    ema: bool
    others: tuple[str, ...]
    epoch: int | None
    args: Mapping[str, Any]


def read_checkpoint(path: Path | str, *, ema: bool | None = None) -> Checkpoint:
    """Read a .pth, .pt or .safetensors file. What it is follows from its content, not from its name.

    Nothing in the file is run: a pickle may name tensors, plain containers and argparse.Namespace, nothing else.

    Args:
        path: of the file.
        ema: True for the averaged weights, False for the plain ones; None for the plain ones unless there are none.

    Raises:
        CheckpointError: the file cannot be read, is empty, truncated, not a checkpoint or would run code; it lacks the
            weights asked for; an entry is no dense tensor or holds NaN or inf.
    """
    path = Path(path)
    sha256, content = read_content(path)
    weights, others = _choose_weights(path, content, ema)
    state = _without_prefix(content if weights == BARE else content[weights])
    if problem := _problem_of(state):
        raise CheckpointError(f"{path.name}: {problem}")
    epoch, args = content.get("epoch"), content.get("args")
    return Checkpoint(
        path=path,
        sha256=sha256,
        state=state,
        weights=weights,
        ema=weights in EMA_KEYS,
        others=others,
        epoch=epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None,
        args=vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, Mapping) else {},
    )


def read_content(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Read the sha256 and the whole content of a checkpoint file, as `read_checkpoint` reads it.

    Raises:
        CheckpointError: the file cannot be read, is empty, truncated, not a checkpoint or would run code.
    """
    sha256, head = _digest_and_head(path)
    content: Any = _safetensors_content(path) if _is_safetensors(path, head) else _torch_content(path, head)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path.name}: holds a {type(content).__name__}; wanted a state dict, or a dict with one")
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


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Whether the file starts as the format does: the header's length, 8 bytes little-endian, then JSON."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000


def _safetensors_content(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise CheckpointError(f"{path.name}: {_damaged('safetensors', str(error))}") from None


def _torch_content(path: Path, head: bytes) -> Any:
    zipped = head.startswith(ZIP_MAGIC)
    if zipped and _is_other_archive(path):
        raise CheckpointError(f"{path.name}: is a zip archive that torch.save did not write; wanted a checkpoint")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # of many kinds: whatever a broken file leads the unpickler to
        raise CheckpointError(f"{path.name}: {_torch_problem(path, head, str(error))}") from None


def _is_other_archive(path: Path) -> bool:
    """Whether the file is a sound zip archive without the pickle that torch.save puts into it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith("/data.pkl") for name in archive.namelist())
    except Exception:  # of many kinds, for a damaged archive: torch.load says what is wrong with it
        return False


def _torch_problem(path: Path, head: bytes, message: str) -> str:
    """Say in one line what torch.load said in many."""
    if "TorchScript" in message:
        return "is a TorchScript archive; wanted a state dict: torch.save(network.state_dict(), FILE)"
    named = re.search(r"GLOBAL ([\w.]+)", message)
    names = (named[1],) if named else ()
    if not head.startswith(ZIP_MAGIC):
        scan = scan_pickles(path)
        if not scan.whole and not head.startswith((ZIP_MAGIC[: len(head)], PICKLE_MAGIC)):
            return f"is no checkpoint, it starts with {head[:8]!r}; wanted a .pth, .pt or .safetensors file"
        names = (*scan.foreign, *names) if scan.whole else ()
        if scan.whole and not scan.names:
            return "is a pickle without tensors; wanted a checkpoint that torch.save wrote"
    if names:
        return (
            f"was refused: its pickle names {names[0]}, and loading a checkpoint runs no code; wanted tensors, plain "
            "containers and argparse.Namespace alone, as torch.save(network.state_dict(), FILE) writes them"
        )
    return _damaged("torch.save", message)


def _damaged(kind: str, message: str) -> str:
    cause = message.rpartition("WeightsUnpickler error:")[2].strip()  # behind torch's advice on weights_only
    first_line = cause.partition("\n")[0][:80] or "it ends too early"
    return f"is truncated or damaged ({kind}: {first_line}); wanted a whole checkpoint; copy or download it again"


def _choose_weights(path: Path, content: Mapping[Any, Any], ema: bool | None) -> tuple[str, tuple[str, ...]]:
    """Return the key to read the weights from, and the keys not taken."""
    plain = [key for key in PLAIN_KEYS if isinstance(content.get(key), Mapping)]
    averaged = [key for key in EMA_KEYS if isinstance(content.get(key), Mapping)]
    if not plain and not averaged and content and all(isinstance(value, Tensor) for value in content.values()):
        plain = [BARE]
    if not plain and not averaged:
        found = ", ".join(map(str, list(content)[:5])) or "nothing"
        wanted = ", ".join((*PLAIN_KEYS, *EMA_KEYS))
        raise CheckpointError(
            f"{path.name}: no weights in it, found {found}; wanted a state dict, bare or under {wanted}"
        )
    if ema and not averaged:
        raise CheckpointError(f"{path.name}: no EMA weights in it, found {plain[0]}; leave --ema out")
    if ema is False and not plain:
        raise CheckpointError(f"{path.name}: only EMA weights in it, found {averaged[0]}; leave --no-ema out")
    candidates = [*averaged, *plain] if ema else [*plain, *averaged]
    return candidates[0], tuple(candidates[1:])


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """Take `module.` and the like off the keys, where every key has it."""
    state = dict(state)
    while prefix := next((p for p in PREFIXES if state and all(str(key).startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _problem_of(state: Mapping[str, Any]) -> str | None:
    """Say what keeps `state` from being weights: an entry that is no dense tensor, or values that are not finite."""
    sick: list[str] = []
    for key, value in state.items():
        if not isinstance(value, Tensor):
            return f"entry {key} is a {type(value).__name__}; wanted tensors alone"
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return f"entry {key} is a quantized, sparse or empty-handed tensor; wanted dense numbers"
        if value.is_floating_point() and not _is_finite(value):
            sick.append(key)
    if sick:
        return (
            f"{len(sick)} of {len(state)} tensors hold NaN or inf (first: {sick[0]}); wanted finite weights; "
            "take a checkpoint from before the training diverged"
        )
    return None


def _is_finite(values: Tensor) -> bool:
    """Whether there is no NaN and no inf; one pass, no temporary."""
    if values.numel() == 0:
        return True
    low, high = (values if values.dtype.itemsize > 1 else values.float()).aminmax()
    return bool(low.isfinite() and high.isfinite())
