"""Train a small network on handwritten digits: to name, find or cut them out; the file has the published layout.

    python -m plainconv.models.train vanillanet_digits -o digits.pth

The file is a whole checkpoint after every epoch: a training that was stopped goes on with --resume, and can be exported
as it stands. Name, recipe and seed decide the weights, whether it was stopped or not.
"""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from plainconv.exporter.errors import CheckpointError, PlainconvError
from plainconv.exporter.progress import track

from . import create, entries, find
from .checkpoints.files import read_content
from .deep_training import set_slope, slope_at
from .training.recipe import Recipe
from .training.tasks import task_of

TRAINABLE = tuple(name for name in entries() if "digits" in name)
EMA_DECAY = 0.99
INTERRUPTED = 130  # the shell's exit status for Ctrl-C


def places_of(name: str) -> tuple[str, str]:
    """Where a network's checkpoints keep the weights, and their averages."""
    return ("model", "model_ema") if find(name).family == "VanillaNet" else ("state_dict", "state_dict_ema")


@dataclass(frozen=True)
class Trained:
    """What the weights, and their averages, are worth on what was held out, from 0 to 1."""

    score: float
    score_ema: float | None


class Training:
    """A network in training: weights, averages, optimizer, and how many epochs are done."""

    def __init__(self, name: str, recipe: Recipe) -> None:
        self.name, self.recipe, self.epochs_done, self.task = name, recipe, 0, task_of(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = create(name)
        self.average: AveragedModel | None = None
        if recipe.ema:
            averaging = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.network, multi_avg_fn=averaging, use_buffers=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)

    @property
    def finished(self) -> bool:
        """Whether all epochs of the recipe are done."""
        return self.epochs_done >= self.recipe.epochs

    def run_epoch(self, data: Any) -> float:
        """Train one epoch, with the slope that belongs to it, and return its mean loss."""
        recipe, epoch = self.recipe, self.epochs_done
        for network in self._networks():
            set_slope(network, slope_at(epoch, recipe.decay_epochs, recipe.schedule))
        draw = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        batches = torch.split(torch.randperm(len(data.images), generator=draw), recipe.batch_size)
        self.network.train()
        total = 0.0
        for step, batch in enumerate(batches):
            lr = recipe.lr * warmed_cosine((epoch + step / len(batches)) / recipe.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss = self.task.loss(self.network, data, batch, recipe, draw)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.network)
            total += loss.item()
        self.epochs_done += 1
        return total / len(batches)

    def evaluate(self, held_out: Any) -> Trained:
        """Score the networks on what was held out."""
        scores = [self.task.score(network, held_out) for network in self._networks()]
        return Trained(scores[0], scores[1] if len(scores) > 1 else None)

    def content(self) -> dict[str, Any]:
        """Return what the family's published checkpoints hold; the optimizer only while there is more to train."""
        args = argparse.Namespace(**self.recipe.args(self.name))
        content = {"epoch": self.epochs_done - 1, "args": args}
        for key, network in zip(places_of(self.name), self._networks(), strict=False):
            content[key] = network.state_dict()
        return content if self.finished else {**content, "optimizer": self.optimizer.state_dict()}

    def resume(self, content: Mapping[str, Any], file: str) -> None:
        """Take up where a checkpoint of the same recipe ends.

        Raises:
            CheckpointError: it was trained by another recipe, or it is no checkpoint of this training.
        """
        told, wanted = content.get("args"), self.recipe.args(self.name)
        if not isinstance(told, argparse.Namespace) or "epoch" not in content:
            raise CheckpointError(
                f"{file}: is no training to resume; wanted a file of this command; leave --resume out"
            )
        for key, value in wanted.items():
            if vars(told).get(key) != value:
                found = vars(told).get(key)
                raise CheckpointError(
                    f"{file}: trained with {key} {found}, wanted {value}; give the recipe it began with"
                )
        for key, network in zip(places_of(self.name), self._networks(), strict=False):
            network.load_state_dict(content[key])
        if self.average is not None:
            self.average.n_averaged.fill_(1)
        self.epochs_done = content["epoch"] + 1
        if not self.finished:
            self.optimizer.load_state_dict(content["optimizer"])

    def _networks(self) -> list[nn.Module]:
        return [self.network] if self.average is None else [self.network, self.average.module]


def train(name: str, path: Path, recipe: Recipe, *, resume: bool = False) -> Trained:
    """Train `name` on its task, and leave a checkpoint at `path` after every epoch.

    Args:
        name: one of `TRAINABLE`.
        path: of the checkpoint; replaced as a whole, never written to in place.
        recipe: how to train.
        resume: go on from the checkpoint at `path`.

    Raises:
        CheckpointError: the checkpoint to resume is missing, damaged or of another recipe.
        PlainconvError: scikit-learn is not installed.
    """
    training = Training(name, recipe)
    data, held_out = training.task.load()
    if resume:
        training.resume(read_content(path)[1], path.name)
    trained = training.evaluate(held_out)
    with one_thread(), track(f"training {name}", total=recipe.epochs, unit="epochs") as bar:
        bar.advance(training.epochs_done)
        while not training.finished:
            loss = training.run_epoch(data)
            save_atomically(training.content(), path)
            trained = training.evaluate(held_out)
            bar.advance(1, note=f"loss {loss:.3f}, held out {trained.score:.1%}")
    return trained


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: no slower for networks this small, and sums come out the same on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def warmed_cosine(progress: float, warmup: float = 0.05) -> float:
    """Rise from 0 to 1 until `warmup`, then fall as ½·(1 + cos) to 0 at progress 1."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def save_atomically(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint beside `path`, then move it there: whoever reads `path` finds the old one or the new one."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    given = _parser().parse_args(arguments)
    task = task_of(given.name)
    epochs = task.epochs if given.epochs is None else given.epochs
    recipe = Recipe(
        epochs=epochs,
        decay_epochs=epochs // 2 if given.decay_epochs is None else given.decay_epochs,
        schedule=given.schedule,
        ema=EMA_DECAY if given.ema else 0.0,
        seed=given.seed,
    )
    try:
        _check(recipe, given.output, resume=given.resume, force=given.force)
        trained = train(given.name, given.output, recipe, resume=given.resume)
        if given.held_out is not None:
            task.save(task.load()[1], given.held_out)
    except PlainconvError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        where = error.filename or given.output
        print(f"error: {where}: cannot be written ({error.strerror}); give a FILE that can", file=sys.stderr)
        return PlainconvError.exit_code
    except KeyboardInterrupt:
        remedy = "--resume goes on with it" if given.output.exists() else "no epoch was done; begin again"
        print(f"stopped: {given.output}: {remedy}", file=sys.stderr)
        return INTERRUPTED
    averaged = "" if trained.score_ema is None else f", averaged weights {trained.score_ema:.1%}"
    print(f"{given.output}: {given.name}, {trained.score:.1%} {task.counts}{averaged}")
    return 0


def _check(recipe: Recipe, output: Path, *, resume: bool, force: bool) -> None:
    if recipe.epochs < 1 or not 0 <= recipe.decay_epochs < recipe.epochs:
        raise PlainconvError(
            f"the slope reaches 1 at epoch {recipe.decay_epochs} of {recipe.epochs}; wanted an epoch before the last; "
            "give --epochs and --decay-epochs"
        )
    if output.exists() and not (resume or force):
        raise PlainconvError(f"{output}: exists; give --resume to go on with it, --force to begin anew, or another -o")


def _parser() -> argparse.ArgumentParser:
    standard = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m plainconv.models.train", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("name", choices=TRAINABLE, help="the network")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.pth", help="the checkpoint")
    parser.add_argument("--epochs", type=int, help="default 40; 20 for the detector, 10 for the segmenter")
    parser.add_argument(
        "--decay-epochs", type=int, help="epochs until the slope of deep training is 1; default half of all"
    )
    parser.add_argument("--schedule", choices=("linear", "cosine"), default=standard.schedule, help="of the slope")
    parser.add_argument("--ema", action="store_true", help=f"keep averaged weights too, decay {EMA_DECAY}")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on with the checkpoint at FILE.pth")
    parser.add_argument("--force", action="store_true", help="replace the checkpoint at FILE.pth")
    parser.add_argument("--held-out", type=Path, metavar="FILE.npz", help="write what was held out, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
