"""Checkpoint files: every published layout is read, nothing in a file is run, and bad input is one line."""

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plainconv.exporter.errors import CheckpointError
from plainconv.models.checkpoints.archive import archive_at
from plainconv.models.checkpoints.files import read_content
from plainconv.models.checkpoints.stand_ins import HARMLESS, TORCHS_OWN

STATE = {"conv.weight": torch.arange(6.0).view(3, 2), "bn.num_batches_tracked": torch.tensor(7)}


def check_refusal(path: Path, *parts: str) -> None:
    """Given a bad file → one line that names it and holds every part."""
    with pytest.raises(CheckpointError) as raised:
        read_content(path)
    message = str(raised.value)
    assert path.name in message
    assert "\n" not in message
    for part in parts:
        assert part in message


def saved(tmp_path: Path, content: Any, **options: Any) -> Path:
    path = tmp_path / "some.pth"
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_content_and_digest_are_the_files(zipped: bool, tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": STATE, "epoch": 3}, _use_new_zipfile_serialization=zipped)
    sha256, content = read_content(path)
    assert content["epoch"] == 3
    assert all(torch.equal(content["model"][key], STATE[key]) for key in STATE)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "some.bin"
    safetensors.torch.save_file(STATE, path)
    assert all(torch.equal(read_content(path)[1][key], STATE[key]) for key in STATE)


class Malicious:
    """Its pickle, when run, makes the folder it names."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    **{
        f"pickle {protocol}": lambda content, path, protocol=protocol: path.write_bytes(
            pickle.dumps(content, protocol=protocol)
        )
        for protocol in (0, 2, 5)
    },
}


@pytest.mark.parametrize("writer", WRITERS)
def test_pickle_that_would_run_code_is_refused_and_does_not_run(writer: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "malicious.pth"
    WRITERS[writer]({"epoch": 3, "model": Malicious(proof)}, path)
    check_refusal(path, "was refused", "mkdir", "runs no code", "torch.save(network.state_dict(), FILE)")
    assert not proof.exists()
    if writer.startswith("pickle"):  # the proof is one: whoever does run it gets the folder
        pickle.loads(path.read_bytes())
        assert proof.is_dir()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"model": STATE, "hook": len}, "builtins.len"),
        (np.random.RandomState, "numpy.random.mtrand.RandomState"),
    ],
)
def test_names_beyond_the_list_are_refused(content: Any, named: str, tmp_path: Path) -> None:
    check_refusal(saved(tmp_path, content), "was refused", named, "FILE.py:CALLABLE may load a file itself")


@pytest.mark.parametrize("protocol", [4, 5])
def test_newer_pickle_protocols_have_a_remedy(protocol: int, tmp_path: Path) -> None:
    check_refusal(saved(tmp_path, STATE, pickle_protocol=protocol), "leave pickle_protocol out", "FILE.py:CALLABLE")


def test_missing_file_folder_and_device(tmp_path: Path) -> None:
    check_refusal(tmp_path / "absent.pth", "no such file", "wanted a .pth, .pt or .safetensors")
    check_refusal(tmp_path, "is a folder")
    check_refusal(Path("/dev/null"), "is no regular file")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = saved(tmp_path, STATE)
    monkeypatch.setattr(Path, "open", refuse)
    check_refusal(path, "cannot be read (Permission denied)", "wanted a readable file")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.pth"
    path.touch()
    check_refusal(path, "0 bytes", "copy or download it again")


def written(tmp_path: Path, kind: str) -> bytes:
    path = tmp_path / f"whole.{kind}"
    if kind == "safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_truncated_file(kind: str, share: float, tmp_path: Path) -> None:
    whole = written(tmp_path, kind)
    path = tmp_path / "truncated.pth"
    path.write_bytes(whole[: max(9, int(len(whole) * share))])
    check_refusal(path, "wanted")


@settings(max_examples=examples(60), deadline=None)
@given(kind=st.sampled_from(["zip", "legacy", "safetensors"]), data=st.data())
def test_damaged_file_is_read_or_refused_in_one_line(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever one byte becomes, nothing but CheckpointError escapes."""
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(written(folder, kind))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.pth"
    path.write_bytes(content)
    try:
        read_content(path)
    except CheckpointError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"<!DOCTYPE html><html>not found</html>", "is no checkpoint, it starts with b'<!DOCTYP'"),
        (b"version https://git-lfs.github.com/spec/v1", "is no checkpoint, it starts with b'version '"),
        (b"\0" * 100, "is no checkpoint"),
        (pickle.dumps({"a": 1}, protocol=5), "is a pickle without tensors"),
    ],
)
def test_file_of_another_kind(content: bytes, part: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    check_refusal(path, part)


def test_zip_and_torchscript_of_another_kind(tmp_path: Path) -> None:
    arrays = tmp_path / "arrays.npz"
    np.savez(arrays, a=1)
    check_refusal(arrays, "is a zip archive that torch.save did not write")
    program = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), program)
    check_refusal(program, "is a zip archive that torch.save did not write")


def test_content_that_is_no_dict(tmp_path: Path) -> None:
    check_refusal(saved(tmp_path, [STATE]), "holds a list", "wanted a state dict")


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    """Mapped, not copied: a change to them never reaches the file."""
    path = saved(tmp_path, STATE)
    before = path.read_bytes()
    state = read_content(path)[1]
    state["conv.weight"].zero_()
    assert path.read_bytes() == before


# ------------------------------------------------------------------ archives and files that are not as they say


def repacked(path: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """Given a checkpoint → the same records, packed by another tool."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))
    return path


LARGE = {"a": torch.linspace(-1, 1, 500), "b": torch.arange(7), "c": torch.ones(3, dtype=torch.bool)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archive_that_cannot_be_mapped_is_read(method: int, tmp_path: Path) -> None:
    """Compressed, or at odd places: mapped, its bytes would be taken for numbers."""
    path = repacked(saved(tmp_path, LARGE), lambda _, content: content, method)
    assert not archive_at(path).mappable
    assert all(torch.equal(read_content(path)[1][key], LARGE[key]) for key in LARGE)


def test_compressed_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    path = repacked(saved(tmp_path, LARGE), lambda _, content: content)
    content = bytearray(path.read_bytes())
    content[content.find(LARGE["a"].numpy().tobytes()) + 9] ^= 1
    path.write_bytes(content)
    check_refusal(path, "another checksum than its record")


@pytest.mark.parametrize(
    ("place", "offset", "flip", "says"),
    [
        ("directory", 10, 8, "says two things of"),  # the method
        ("directory", 24, 1, "two sizes for"),
        ("directory", 42, 1, "no record where"),  # where the record is
        ("record", 8, 8, "says two things of"),  # the method
        ("record", 6, 1, "encrypted"),
        ("record", 30, 1, "another name"),
        ("record", 28, 1, "another checksum"),  # the length of what stands between name and bytes
        ("record", 28, 16, "another checksum"),
        ("record", 28, 64, "another checksum"),
    ],
)
def test_directory_and_records_that_disagree_are_refused(
    place: str, offset: int, flip: int, says: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, LARGE)
    content = bytearray(path.read_bytes())
    name = b"some/data/0"
    start = content.rfind(name) - 46 if place == "directory" else content.find(name) - 30
    content[start + offset] ^= flip
    path.write_bytes(content)
    check_refusal(path, says)


def test_two_records_over_one_another_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(64), "b": torch.zeros(64)})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first, second = (archive.getinfo(f"some/data/{key}").header_offset for key in "01")
    entry = content.rfind(b"some/data/1") - 46
    assert content[entry + 42 : entry + 46] == second.to_bytes(4, "little")
    content[entry + 42 : entry + 46] = first.to_bytes(4, "little")
    path.write_bytes(content)
    check_refusal(path, "is damaged or forged")


@pytest.mark.parametrize(("old", "new"), [(500, 501), (500, 2**31 - 1), (7, 8)])
def test_storage_larger_than_its_record_is_refused(old: int, new: int, tmp_path: Path) -> None:
    """Mapped, it would go on with the bytes of the next."""

    def grow(name: str, content: bytes) -> bytes:
        code = [b"J" + old.to_bytes(4, "little"), b"M" + old.to_bytes(2, "little"), b"K" + bytes([old % 256])]
        found = next((c for c in code if content.count(c + b"tq") and (c[:1] != b"K" or old < 256)), None)
        if not name.endswith("data.pkl") or found is None:
            return content
        return content.replace(found + b"tq", b"J" + new.to_bytes(4, "little") + b"tq")

    check_refusal(repacked(saved(tmp_path, LARGE), grow), "its pickle asks for", f"{new * (8 if old < 9 else 4)} bytes")


DEEP = {
    "list": lambda n: b"]" * n + b"a" * (n - 1),
    "tuple": lambda n: b")" + b"\x85" * n,
    "marks": lambda n: b"(" * n + b"t" * n,
    "dict": lambda n: b"}X\x01\0\0\0a" * n + b"}" + b"s" * n,
    "key": lambda n: b"})" + b"\x85" * n + b"K\x01s",
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("depth", [150, 20_000])
def test_deep_nesting_is_refused_before_it_is_read(kind: str, depth: int, tmp_path: Path) -> None:
    content = b"\x80\x02" + DEEP[kind](depth) + b"."
    path = repacked(saved(tmp_path, STATE), lambda name, old: content if name.endswith("data.pkl") else old)
    check_refusal(path, "containers more than 100 deep")
    path.write_bytes(content)
    check_refusal(path, "containers more than 100 deep")


@pytest.mark.parametrize(
    "offsets",
    [[(0, 8), (4, 12)], [(0, 8), (0, 8)], [(0, 8), (12, 20)], [(0, 8), (8, 24)], [(8, 0), (8, 16)], [(1, 9), (9, 17)]],
)
def test_safetensors_with_overlaps_holes_and_more_than_the_file_has(
    offsets: list[tuple[int, int]], tmp_path: Path
) -> None:
    entries = {n: {"dtype": "F32", "shape": [2], "data_offsets": o} for n, o in zip("ab", offsets, strict=True)}
    header = json.dumps(entries).encode()
    path = tmp_path / "some.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    check_refusal(path, "is truncated or damaged (safetensors")


def test_safetensors_at_odd_places_are_aligned(tmp_path: Path) -> None:
    entries = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": (0, 1)},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": (1, 9)},
    }
    header = json.dumps(entries).encode()
    path = tmp_path / "some.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x07" + np.float32([1.5, -2]).tobytes())
    tensor = read_content(path)[1]["b"]
    assert tensor.tolist() == [1.5, -2]
    assert tensor.data_ptr() % 4 == 0


def test_ordinary_archive_is_mapped(tmp_path: Path) -> None:
    assert archive_at(saved(tmp_path, LARGE)).mappable


# ------------------------------------------------------------------ pickles of no one's making


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.lists(st.sampled_from([bytes([op]) for op in range(256)]) | st.binary(max_size=6), max_size=60))
def test_random_opcodes_are_read_or_refused_in_one_line(body: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "random.pth"
    torch.save(STATE, path)
    content = b"\x80\x02" + b"".join(body) + b"."
    repacked(path, lambda name, old: content if name.endswith("data.pkl") else old)
    try:
        read_content(path)
    except CheckpointError as error:
        assert "\n" not in str(error)


names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)
MODULES = ["os", "posix", "subprocess", "builtins", "__builtin__", "sys", "importlib", "numpy", "pathlib", "torch"]


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(module=st.sampled_from(MODULES) | names, name=st.sampled_from(["system", "eval", "getattr", "load"]) | names)
def test_random_names_are_refused_and_never_called(module: str, name: str, tmp_path: Path) -> None:
    """getattr alone has a stand-in, which takes the methods of one stand-in and nothing else."""
    if f"{module}.{name}".replace("__builtin__", "builtins") in {*HARMLESS, *TORCHS_OWN} - {"builtins.getattr"}:
        return
    path = tmp_path / "random.pth"
    torch.save(STATE, path)
    call = f"\x80\x02c{module}\n{name}\nX\x04\0\0\0true\x85R.".encode("latin-1")
    repacked(path, lambda record, old: call if record.endswith("data.pkl") else old)
    with pytest.raises(
        CheckpointError, match=r"was refused: its pickle names|truncated or damaged.*getattr of something"
    ):
        read_content(path)
