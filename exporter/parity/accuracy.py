"""Accuracy on labelled, held-out images, before and after every step."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.errors import SourceError

from .reference import Run, in_batches


@dataclass(frozen=True)
class EvalData:
    """Images [n, C, H, W] float32, as the network takes them, and labels [n]."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Accuracy:
    """How many images a step classifies correctly, and how many of them differently from the first step.

    True where not one image's correctness changed.
    """

    step: str
    correct: int
    images: int
    changed: int

    def __bool__(self) -> bool:
        return self.changed == 0

    def __str__(self) -> str:
        share = f"{self.step}: {self.correct} of {self.images} correct ({self.correct / self.images:.2%})"
        return share if self else f"{share}; {self.changed} images differ from the network before"


def read_eval_data(path: Path, image_shape: tuple[int, ...]) -> EvalData:
    """The arrays "images" and "labels" of the .npz file at `path`; `image_shape` is C, H, W.

    Raises:
        SourceError: the file is missing or no .npz, lacks one of the two, or they do not fit the network or each other.

    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            missing = [key for key in ("images", "labels") if key not in held]
            if missing:
                raise SourceError(f"{path.name}: holds {sorted(held)}, wants images and labels; lacks {missing[0]}")
            images, labels = held["images"], held["labels"]
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}; give an .npz file with images and labels") from None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise SourceError(f"{path}: no .npz file of plain arrays ({error}); write it with numpy.savez") from None
    if images.shape[1:] != image_shape or not len(images):
        wanted = ", ".join(["n", *map(str, image_shape)])
        raise SourceError(f"{path.name}: images are {list(images.shape)}, want [{wanted}] as the network takes them")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        kind = f"{labels.dtype} {list(labels.shape)}"
        raise SourceError(f"{path.name}: labels are {kind}, want one integer for each of {len(images)} images")
    return EvalData(images.astype(np.float32), labels.astype(np.int64))


def correctness(run: Run, data: EvalData, batch: int) -> np.ndarray:
    """Which images `run`, called with `batch` of them at a time, classifies correctly: bool [n].

    Raises:
        SourceError: its first output is not a row of scores an image.

    """
    scores = in_batches(run, (data.images,), batch)[0]
    if scores.ndim != 2 or len(scores) != len(data.images):
        raise SourceError(
            f"the network's output is {list(scores.shape)}, want [images, classes] to hold against labels"
        )
    classes = scores.shape[1]
    if data.labels.min() < 0 or data.labels.max() >= classes:
        found = f"{data.labels.min()} to {data.labels.max()}"
        raise SourceError(
            f"labels run from {found}, want 0 to {classes - 1}; give the labels of this network's classes"
        )
    right: np.ndarray = (scores.argmax(axis=1) == data.labels) & np.isfinite(scores).all(axis=1)
    return right


def accuracy(step: str, right: np.ndarray, before: np.ndarray | None = None) -> Accuracy:
    """The record of a step from its `correctness`, beside that of the network `before` any step."""
    changed = 0 if before is None else int((right != before).sum())
    return Accuracy(step, int(right.sum()), len(right), changed)
