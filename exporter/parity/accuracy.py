"""Accuracy on labelled, held-out images, before and after every step."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SourceError, one_line
from .batches import Run, in_batches

LOSS_ALLOWED = 0.01
"""Of AP or mIoU, or the share of images, that a lower precision may lose."""
MOVE_ALLOWED = 0.001
"""By which AP or mIoU may differ in float32, where rounding turns a pixel or a box now and then."""


@dataclass(frozen=True)
class EvalData:
    """Images [n, C, H, W] float32, as the network takes them, and labels [n]; its further inputs by name, [n, …]."""

    images: np.ndarray
    labels: np.ndarray
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    def of_inputs(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """By the names of the network's inputs, of which `images` is the first."""
        return {name: self.others.get(name, self.images) for name in names}

    def count(self, run: Run, batch: int) -> "Rights":
        """What `run` gets right. Raises SourceError as `correctness` does."""
        return Rights(correctness(run, self, batch))


@dataclass(frozen=True)
class Accuracy:
    """How many images a step classifies correctly, and how many of them differently from the first step.

    True where not one image's correctness changed; where some may be lost, where at most `loss_allowed` of all are.
    """

    step: str
    correct: int
    images: int
    changed: int
    lost: int = 0
    loss_allowed: float = 0.0

    def __bool__(self) -> bool:
        return self.lost <= self.loss_allowed * self.images if self.loss_allowed else self.changed == 0

    def __str__(self) -> str:
        share = f"{self.step}: {self.correct} of {self.images} correct ({self.correct / self.images:.2%})"
        if self:
            return share
        if self.loss_allowed:
            return f"{share}, {self.lost} fewer than the network before; at most {self.loss_allowed:.0%} may be lost"
        return f"{share}; {self.changed} images differ from the network before"

    def as_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {"correct": self.correct, "images": self.images, "changed": self.changed}


@dataclass(frozen=True)
class Rights:
    """Which images a step classifies correctly: bool [n]."""

    right: np.ndarray

    def beside(self, before: "Rights", step: str, *, is_lossy: bool) -> Accuracy:
        """The record of the step, beside what was right before any; a lossy one may lose `LOSS_ALLOWED` of all."""
        return accuracy(step, self.right, before.right, loss_allowed=LOSS_ALLOWED if is_lossy else 0.0)


@dataclass(frozen=True)
class Scored:
    """The scores of a step and of the network before, the first of which counts, and by how much it may differ.

    A lower precision may lose that; in float32 it moves by no more either way.
    """

    step: str
    scores: Mapping[str, float]
    before: Mapping[str, float]
    images: int
    is_lossy: bool

    @property
    def allowed(self) -> float:
        """What the first score may lose, or in float32 move by."""
        return LOSS_ALLOWED if self.is_lossy else MOVE_ALLOWED

    def __bool__(self) -> bool:
        name = next(iter(self.scores))
        lost = self.before[name] - self.scores[name]
        return (lost if self.is_lossy else abs(lost)) <= self.allowed

    def __str__(self) -> str:
        said = ", ".join(f"{name} {score:.4f}" for name, score in self.scores.items())
        share, (name, was) = f"{self.step}: {said} of {self.images} images", next(iter(self.before.items()))
        if self:
            return share
        allowed = f"may move it by at most {self.allowed}; where there are few images, give more"
        if self.is_lossy:
            other = "give other images or another --calibration-method, or a wider --precision"
            allowed = f"may lose at most {self.allowed}; {other}"
        return f"{share}; the network before has {name} {was:.4f}, and a step {allowed}"

    def as_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {"scores": dict(self.scores), "images": self.images}


@dataclass(frozen=True)
class Scores:
    """What a step's boxes or masks are worth, by name, from 0 to 1."""

    scores: Mapping[str, float]
    images: int

    def beside(self, before: "Scores", step: str, *, is_lossy: bool) -> Scored:
        """The record of the step, beside the scores before any."""
        return Scored(step, self.scores, before.scores, self.images, is_lossy)


def read_eval_data(
    path: Path, image_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]], whole: Collection[str] = ()
) -> EvalData:
    """The arrays "images" and "labels" of the .npz file at `path`; `image_shape` is C, H, W.

    Of a network with several inputs, whose shapes are by name, an array of each name takes the place of "images";
    `whole` are those that have no batch axis.

    Raises:
        SourceError: the file is missing or no .npz, lacks one of the two, or they do not fit the network or each other;
            an input has no batch axis.

    """
    if whole:
        raise SourceError(f"--eval-data counts images, and the input {min(whole)} has no batch axis; leave it out")
    shapes = dict(image_shape) if isinstance(image_shape, Mapping) else {"images": image_shape}
    if len(shapes) == 1:
        shapes = {"images": next(iter(shapes.values()))}
    held = arrays_of_npz(path, (*shapes, "labels"))
    labels = held.pop("labels")
    for name, shape in shapes.items():
        check_images(path, held[name], shape, name)
    first, *rest = shapes
    images, others = held[first].astype(np.float32), {name: _single(held[name]) for name in rest}
    other = next((name for name, x in others.items() if len(x) != len(images)), None)
    if other is not None:
        raise SourceError(
            f"{path.name}: {first} has {len(images)} rows and {other} {len(others[other])}; wants one of each"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        kind = f"{labels.dtype} {list(labels.shape)}"
        other = "; of boxes or masks give --postprocess detect or segment, too" if labels.ndim > 1 else ""
        raise SourceError(f"{path.name}: labels are {kind}, want one integer for each of {len(images)} images{other}")
    return EvalData(images, labels.astype(np.int64), others)


def arrays_of_npz(path: Path, names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    """The arrays `names`, or all, of the .npz file at `path`.

    Raises SourceError where it is none, lacks one of them, or has one twice.
    """
    wanted = " and ".join(names) if names is not None else "arrays by the names of inputs"
    try:
        with path.open("rb") as file:
            held = np.load(file, allow_pickle=False)
            found = {} if isinstance(held, np.ndarray) else held
            missing = [key for key in names or () if key not in found]
            if missing or not found:
                kind = "a single array" if isinstance(held, np.ndarray) else sorted(held)
                lacks = f"; lacks {missing[0]}" if missing else "; write it with numpy.savez"
                raise SourceError(f"{path.name}: holds {kind}, wants {wanted}{lacks}")
            twice = [key for key in found if list(found).count(key) > 1]
            if twice:
                raise SourceError(f"{path.name}: holds {twice[0]} twice, wants {wanted}; write it with numpy.savez")
            return {name: found[name] for name in (found if names is None else names)}
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}; give an .npz file with {wanted}") from None
    except Exception as error:  # zipfile's, zlib's, tokenize's and NumPy's, without a common base
        advice = "allow_pickle" in str(error)  # which would run code from the file
        reason = "no .npz file of plain arrays" + ("" if advice else f" ({one_line(error)})")
        raise SourceError(f"{path}: {reason}; write it with numpy.savez") from None


def _single(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype.kind == "f" else x


def check_images(path: Path, images: np.ndarray, image_shape: tuple[int, ...], what: str = "images") -> None:
    """Raise SourceError unless `images` are [n, *image_shape], at least one, of finite numbers."""
    if images.shape[1:] != image_shape or not len(images):
        wanted = ", ".join(["n", *map(str, image_shape)])
        raise SourceError(f"{path.name}: {what} are {list(images.shape)}, want [{wanted}] as the network takes them")
    if images.dtype.kind not in "fiub" or not _finite(images):
        found = f"{images.dtype}" if images.dtype.kind not in "fiub" else "not all finite"
        raise SourceError(
            f"{path.name}: {what} are {found}, want finite numbers, preprocessed as the network takes them"
        )


def _finite(images: np.ndarray) -> bool:
    """Whether all are finite as float32."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(images.astype(np.float32)).all())


def correctness(run: Run, data: EvalData, batch: int) -> np.ndarray:
    """Which images `run`, called with `batch` of them at a time, classifies correctly: bool [n].

    Raises:
        SourceError: its first output is not a row of scores an image.

    """
    scores = in_batches(run, (data.images, *data.others.values()), batch)[0]
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


def accuracy(step: str, right: np.ndarray, before: np.ndarray | None = None, *, loss_allowed: float = 0.0) -> Accuracy:
    """The record of a step from its `correctness`, beside that of the network `before` any step.

    `loss_allowed` is the share of images by which it may get fewer right.
    """
    known = right if before is None else before
    changed, lost = int((right != known).sum()), int(known.sum()) - int(right.sum())
    return Accuracy(step, int(right.sum()), len(right), changed, lost, loss_allowed)
