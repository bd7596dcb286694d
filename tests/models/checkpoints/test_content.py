"""What stands in a checkpoint beside its tensors, and files without any."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from plainconv.exporter.errors import CheckpointError
from plainconv.models.checkpoints import content as checkpoint_content
from plainconv.models.checkpoints.content import read_checkpoint, some

STATE = {"conv.weight": torch.arange(6.0).view(3, 2)}


def saved(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "some.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("args", [argparse.Namespace(decay_epochs=100), {"decay_epochs": 100}])
def test_epoch_and_args_of_the_training_script_are_kept(args: Any, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(tmp_path, {"model": STATE, "epoch": 12, "args": args}))
    assert (checkpoint.epoch, checkpoint.args["decay_epochs"]) == (12, 100)


def test_epoch_that_is_no_number_is_not_one(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(tmp_path, {"model": STATE, "epoch": "best", "args": None}))
    assert (checkpoint.epoch, dict(checkpoint.args)) == (None, {})


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"optimizer": {"lr": 0.1}, "epoch": 3}, "no weights in it, found optimizer, epoch; wanted a state dict"),
        ({}, "no weights in it, found nothing"),
    ],
)
def test_file_without_tensors(content: Any, part: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=part):
        read_checkpoint(saved(tmp_path, content))


def test_dicts_in_themselves_and_in_one_another_many_times_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_content, "MOST", 10_000)
    content: dict[str, Any] = dict(STATE)
    content["self"] = content
    assert "conv.weight" in read_checkpoint(saved(tmp_path, content)).tensors
    many: Any = {"a": torch.ones(1)}
    for _ in range(7):
        many = {str(index): many for index in range(30)}
    with pytest.raises(CheckpointError, match="holds more than 10000 entries"):
        read_checkpoint(saved(tmp_path, many))


def test_names_are_shown_in_one_line() -> None:
    assert some(["a\nb", "\x1b[31m", *"cdef"]) == "a?b, ?[31m, c, d, e and 1 more"
