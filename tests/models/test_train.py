"""Training: the recipe, its files, stopping and going on; and the shipped checkpoints' accuracy."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from plainconv.exporter.errors import CheckpointError
from plainconv.exporter.reparam import reparameterize
from plainconv.models import create
from plainconv.models import train as train_module
from plainconv.models.checkpoints.files import read_content
from plainconv.models.checkpoints.published import load_checkpoint
from plainconv.models.digits import Digits
from plainconv.models.series_activation import SeriesActivation
from plainconv.models.train import INTERRUPTED, Training, main, save_atomically, train, warmed_cosine
from plainconv.models.training import tasks
from plainconv.models.training.recipe import Recipe
from plainconv.models.training.scenes import Scenes


@pytest.fixture(autouse=True)
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 random images in place of the digits, 20 in place of the scenes, so that an epoch takes milliseconds."""
    draw = torch.Generator().manual_seed(0)
    digits = Digits(torch.randn(60, 1, 32, 32, generator=draw), torch.arange(60) % 10)
    monkeypatch.setattr(tasks, "load_digits", lambda: (digits, digits))
    boxes, labels = torch.zeros(20, 5, 4), torch.full((20, 5), -1)
    boxes[:, 0], labels[:, 0] = torch.tensor([3.0, 4.0, 20.0, 25.0]), torch.arange(20) % 10
    masks = torch.randint(0, 11, (20, 32, 32), generator=draw, dtype=torch.uint8)
    scenes = Scenes(torch.randn(20, 1, 32, 32, generator=draw), boxes, labels, masks)
    monkeypatch.setattr(tasks, "load_scenes", lambda: (scenes, scenes))


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C while the next epoch is trained."""
    run_epoch = train_module.Training.run_epoch

    def run_or_stop(self: Training, digits: Digits) -> float:
        if self.epochs_done == epochs:
            raise KeyboardInterrupt
        return run_epoch(self, digits)

    monkeypatch.setattr(train_module.Training, "run_epoch", run_or_stop)


@pytest.mark.parametrize(
    "name",
    [
        "vanillanet_digits",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("parnet_digits", "resnet_digits", "digits_detector")),
        "digits_segmenter",
    ],
)
def test_stopped_and_resumed_training_ends_with_the_same_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=3, decay_epochs=2, ema=0.9)
    straight, stopped = tmp_path / "straight.pth", tmp_path / "stopped.pth"
    train(name, straight, recipe)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(1, patch)
        train(name, stopped, recipe)
    assert "optimizer" in read_content(stopped)[1]
    train(name, stopped, recipe, resume=True)
    assert stopped.read_bytes() == straight.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped.pth", "straight.pth"]


def test_seed_decides_the_weights(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.pth" for i in range(3)]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        train("vanillanet_digits", path, Recipe(epochs=1, decay_epochs=0, seed=seed))
    first, same, other = (load_checkpoint("vanillanet_digits", path).module.state_dict() for path in paths)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["stem1.0.weight"], other["stem1.0.weight"])


def test_training_leaves_torch_as_it_was(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    train("vanillanet_digits", tmp_path / "some.pth", Recipe(epochs=1, decay_epochs=0))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_file_of_a_stopped_training_is_a_checkpoint_with_its_slope(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stopped.pth"
    stop_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train("vanillanet_digits", path, Recipe(epochs=9, decay_epochs=4))
    info = load_checkpoint("vanillanet_digits", path).info
    assert (info.epoch, info.slope) == (1, 0.25)
    assert "slope 0.25 (saved at epoch 1 of 4" in info.warnings[0]


@pytest.mark.parametrize(
    ("name", "plain", "averaged"),
    [
        ("vanillanet_digits", "model", "model_ema"),
        ("parnet_digits", "state_dict", "state_dict_ema"),
        ("resnet_digits", "state_dict", "state_dict_ema"),
        ("digits_detector", "state_dict", "state_dict_ema"),
        ("digits_segmenter", "state_dict", "state_dict_ema"),
    ],
)
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_files_have_the_published_layout(name: str, plain: str, averaged: str, ema: float, tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    trained = train(name, path, Recipe(epochs=2, decay_epochs=1, ema=ema))
    content = read_content(path)[1]
    assert content.keys() == {"epoch", "args", plain} | ({averaged} if ema else set())
    assert content["epoch"] == 1
    assert (content["args"].model, content["args"].decay_epochs, content["args"].decay_linear) == (name, 1, True)
    assert (trained.score_ema is None) == (ema == 0.0)
    info = load_checkpoint(name, path, ema=bool(ema)).info
    assert info.warnings == ()
    assert info.weights == (averaged if ema else plain)


def test_averaged_weights_lag_behind(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    train("vanillanet_digits", path, Recipe(epochs=2, decay_epochs=1, ema=0.5))
    plain, averaged = (load_checkpoint("vanillanet_digits", path, ema=ema).module.state_dict() for ema in (False, True))
    assert not torch.equal(plain["stem1.0.weight"], averaged["stem1.0.weight"])
    assert not torch.equal(plain["stem1.1.running_var"], averaged["stem1.1.running_var"])


def test_resuming_another_recipe_names_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    train("vanillanet_digits", path, Recipe(epochs=2, decay_epochs=1))
    with pytest.raises(CheckpointError, match=r"some.pth: trained with epochs 2, wanted 3; give the recipe it began"):
        train("vanillanet_digits", path, Recipe(epochs=3, decay_epochs=1), resume=True)
    with pytest.raises(CheckpointError, match=r"trained with model vanillanet_digits, wanted parnet_digits"):
        train("parnet_digits", path, Recipe(epochs=2, decay_epochs=1), resume=True)


def test_resuming_what_is_no_training(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        train("vanillanet_digits", tmp_path / "absent.pth", Recipe(), resume=True)
    torch.save({"model": {}}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="is no training to resume"):
        train("vanillanet_digits", tmp_path / "bare.pth", Recipe(), resume=True)


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.pth"
    save_atomically({"a": torch.ones(1)}, path)
    before = path.read_bytes()

    def write_half(content: Any, file: Any) -> None:
        file.write(before[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(OSError, match="No space left"):
        save_atomically({"a": torch.zeros(1)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_learning_rate_rises_then_falls() -> None:
    assert warmed_cosine(0.0) == 0.0
    assert warmed_cosine(0.05) == 1.0
    assert warmed_cosine(0.525) == pytest.approx(0.5)
    assert warmed_cosine(1.0) == pytest.approx(0.0, abs=1e-15)


def test_command_trains_writes_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, held_out = tmp_path / "some.pth", tmp_path / "held_out.npz"
    command = ["vanillanet_digits", "-o", str(path), "--epochs", "2", "--ema", "--held-out", str(held_out)]
    assert main(command) == 0
    assert "of the held-out digits right, averaged weights" in capsys.readouterr().out
    assert held_out.exists()
    assert main(command) == 2
    assert "exists; give --resume to go on with it, --force" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--force"]) == 0


def test_command_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = str(tmp_path / "absent" / "some.pth")
    for arguments, part in [
        (["-o", nowhere, "--epochs", "1"], "cannot be written (No such file or directory)"),
        (["-o", nowhere, "--epochs", "2", "--decay-epochs", "2"], "the slope reaches 1 at epoch 2 of 2; wanted"),
        (["-o", nowhere, "--epochs", "0"], "wanted an epoch before the last"),
        (["-o", nowhere, "--resume"], "no such file"),
    ]:
        assert main(["vanillanet_digits", *arguments]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("error: ")
        assert part in told


def test_command_that_is_stopped_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.pth"
    for epochs, remedy in ((0, "no epoch was done; begin again"), (1, "--resume goes on with it")):
        with monkeypatch.context() as patch:
            stop_after(epochs, patch)
            assert main(["vanillanet_digits", "-o", str(path)]) == INTERRUPTED
        assert capsys.readouterr().err.splitlines()[-1] == f"stopped: {path}: {remedy}"


@pytest.mark.parametrize("name", ["vanillanet_digits", "parnet_digits", "resnet_digits"])
def test_shipped_checkpoints_read_the_digits(name: str, assets: Path) -> None:
    with np.load(assets / "digits_heldout.npz") as held_out:
        images, labels = torch.from_numpy(held_out["images"]), torch.from_numpy(held_out["labels"])
    for ema in (False, True) if name == "parnet_digits" else (False,):
        network = load_checkpoint(name, assets / f"{name}.pth", ema=ema).module
        with torch.inference_mode():
            right = int((network(images).argmax(1) == labels).sum())
        assert right >= 0.97 * len(labels)
    assert (assets / f"{name}.pth").stat().st_size <= 2_000_000


def test_deep_resnet_is_as_deep_as_before_and_reads_the_same_digits(assets: Path) -> None:
    """Deep training leaves nothing behind: as many convs as the deploy form, and no image read otherwise."""
    network = load_checkpoint("resnet_digits", assets / "resnet_digits.pth").module
    with np.load(assets / "digits_heldout.npz") as held_out:
        images = torch.from_numpy(held_out["images"])
    plain, report = reparameterize(network, images[:2], check=False)  # checked by region; the digits check the whole
    deploy = create("resnet_digits", deploy=True)
    convs = sum(isinstance(part, nn.Conv2d | SeriesActivation) for part in deploy.modules())
    assert report.counts_after["conv"] == convs == report.counts_before["conv"] - 5
    assert report.counts_after["norm"] == 0
    with torch.inference_mode():
        assert int((plain(images).argmax(1) != network(images).argmax(1)).sum()) <= 1
