"""Checkpoint files: every published layout is read, nothing in a file is run, and bad input is one line."""

import argparse
import hashlib
import os
import pathlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plainconv.exporter.errors import CheckpointError
from plainconv.models.checkpoint_files import BARE, read_checkpoint

STATE = {"conv.weight": torch.arange(6.0).view(3, 2), "bn.num_batches_tracked": torch.tensor(7)}
AVERAGED = {key: tensor + 1 for key, tensor in STATE.items()}


def check_refusal(path: Path, *parts: str, **options: Any) -> None:
    """Given a bad file → one line that names it and holds every part."""
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(path, **options)
    message = str(raised.value)
    assert path.name in message
    assert "\n" not in message
    for part in parts:
        assert part in message


def saved(tmp_path: Path, content: Any, **options: Any) -> Path:
    path = tmp_path / "some.pth"
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize(
    ("content", "weights"),
    [
        (STATE, BARE),
        ({"model": STATE}, "model"),
        ({"state_dict": STATE, "arch": "x", "version": 2}, "state_dict"),
        ({"model": {f"module.{key}": tensor for key, tensor in STATE.items()}}, "model"),
        ({f"module._orig_mod.{key}": tensor for key, tensor in STATE.items()}, BARE),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_every_published_layout_is_read(content: Any, weights: str, zipped: bool, tmp_path: Path) -> None:
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.weights, checkpoint.ema, checkpoint.others) == (weights, False, ())
    assert checkpoint.state.keys() == STATE.keys()
    assert all(torch.equal(checkpoint.state[key], STATE[key]) for key in STATE)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "some.bin"
    safetensors.torch.save_file(STATE, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.weights == BARE
    assert all(torch.equal(checkpoint.state[key], STATE[key]) for key in STATE)


def test_a_prefix_of_some_keys_is_part_of_their_names(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert read_checkpoint(saved(tmp_path, state)).state.keys() == state.keys()


@pytest.mark.parametrize(("plain", "averaged"), [("model", "model_ema"), ("state_dict", "state_dict_ema")])
@pytest.mark.parametrize(("ema", "taken"), [(None, 0), (False, 0), (True, 1)])
def test_ema_chooses_between_two_sets_of_weights(
    plain: str, averaged: str, ema: bool | None, taken: int, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(saved(tmp_path, {plain: STATE, averaged: AVERAGED}), ema=ema)
    keys, states = (plain, averaged), (STATE, AVERAGED)
    assert (checkpoint.weights, checkpoint.ema) == (keys[taken], bool(taken))
    assert checkpoint.others == (keys[1 - taken],)
    assert torch.equal(checkpoint.state["conv.weight"], states[taken]["conv.weight"])


def test_averaged_weights_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(tmp_path, {"model_ema": AVERAGED}))
    assert (checkpoint.weights, checkpoint.ema) == ("model_ema", True)


def test_ema_that_is_not_there_is_refused(tmp_path: Path) -> None:
    check_refusal(saved(tmp_path, {"model": STATE}), "no EMA weights", "found model", "leave --ema out", ema=True)
    check_refusal(saved(tmp_path, STATE), "no EMA weights", ema=True)
    check_refusal(saved(tmp_path, {"state_dict_ema": STATE}), "only EMA weights", "leave --no-ema out", ema=False)


@pytest.mark.parametrize("args", [argparse.Namespace(decay_epochs=100), {"decay_epochs": 100}])
def test_epoch_and_args_of_the_training_script_are_kept(args: Any, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(tmp_path, {"model": STATE, "epoch": 12, "args": args}))
    assert (checkpoint.epoch, checkpoint.args["decay_epochs"]) == (12, 100)


def test_epoch_that_is_no_number_is_not_one(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(tmp_path, {"model": STATE, "epoch": "best", "args": None}))
    assert (checkpoint.epoch, dict(checkpoint.args)) == (None, {})


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
        ({"model": STATE, "args": argparse.Namespace(out=pathlib.PurePosixPath("x"))}, "pathlib"),
    ],
)
def test_classes_other_than_namespace_are_refused_by_name(content: Any, named: str, tmp_path: Path) -> None:
    check_refusal(saved(tmp_path, content), "was refused", named)


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


@settings(max_examples=60, deadline=None)
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
        read_checkpoint(path)
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


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ([STATE], ("holds a list", "wanted a state dict")),
        ({"optimizer": {}, "epoch": 3}, ("no weights in it, found optimizer, epoch", "bare or under model")),
        ({}, ("no weights in it, found nothing",)),
        ({"model": {"a": torch.ones(1), "b": "text"}}, ("entry b is a str", "wanted tensors alone")),
        ({"a": torch.ones(2).to_sparse()}, ("entry a is a", "wanted dense numbers")),
    ],
)
def test_content_that_is_no_state_dict(content: Any, parts: tuple[str, ...], tmp_path: Path) -> None:
    check_refusal(saved(tmp_path, content), *parts)


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        *[(dtype, bad) for dtype in (torch.float32, torch.bfloat16) for bad in (torch.nan, torch.inf, -torch.inf)],
        *[(dtype, torch.nan) for dtype in (torch.float16, torch.float64, torch.float8_e4m3fn)],
    ],
)
def test_weights_that_are_not_finite(dtype: torch.dtype, bad: float, tmp_path: Path) -> None:
    sick = torch.tensor([1.0, bad, 2.0]).to(dtype)
    state = {**STATE, "first.weight": sick, "second.weight": sick, "fine.weight": torch.ones(2, dtype=dtype)}
    check_refusal(saved(tmp_path, state), "2 of 5 tensors hold NaN or inf (first: first.weight)", "before the training")


def test_only_the_chosen_weights_need_be_finite(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": {"a": torch.tensor([torch.nan])}, "model_ema": {"a": torch.ones(1)}})
    assert read_checkpoint(path, ema=True).ema
    check_refusal(path, "1 of 1 tensors hold NaN")


def test_empty_tensors_and_integers_are_weights_too(tmp_path: Path) -> None:
    state = {"none": torch.empty(0), "index": torch.tensor([1, 2]), "mask": torch.tensor([True])}
    assert read_checkpoint(saved(tmp_path, state)).state.keys() == state.keys()


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    """Mapped, not copied: a change to them never reaches the file."""
    path = saved(tmp_path, STATE)
    before = path.read_bytes()
    state = read_checkpoint(path).state
    state["conv.weight"].zero_()
    assert path.read_bytes() == before
