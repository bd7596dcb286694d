"""Scenes of handwritten digits: 96×96 gray images with clutter, one to five digits in each, their boxes and masks."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import DIGITS
from ..digits import Digits, load_digits

SIZE, MOST, CLASSES = 96, 5, 10
SMALLEST, LARGEST = 18, 44  # sides of a digit's square, before it is cut to its ink
INK = 0.3  # of the darkest: what is a digit's pixel
TOUCH = 2  # pixels between any two boxes
TRIES = 30
TRAINING, HELD_OUT = 3000, 200


@dataclass(frozen=True)
class Scenes:
    """Images [N, 1, 96, 96] float32, ready for a network; boxes [N, 5, 4] x1 y1 x2 y2; labels [N, 5], −1 for none.

    Masks [N, 96, 96] uint8 are 0 on the background and d + 1 on the digit d.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor

    def rows(self, rows: Tensor) -> "Scenes":
        """Some of them."""
        return Scenes(self.images[rows], self.boxes[rows], self.labels[rows], self.masks[rows])


def load_scenes(training: int = TRAINING, held_out: int = HELD_OUT) -> tuple[Scenes, Scenes]:
    """Draw scenes to train on and held-out ones, of the digits to train on and the held-out ones; always the same.

    Raises:
        PlainconvError: scikit-learn is not installed.
    """
    of_training, of_held_out = load_digits()
    return draw_scenes(of_training, training, seed=0), draw_scenes(of_held_out, held_out, seed=1)


def draw_scenes(digits: Digits, count: int, *, seed: int) -> Scenes:
    """Draw `count` scenes of `digits`."""
    draw = np.random.default_rng(seed)
    ink = digits.images * DIGITS["std"][0] + DIGITS["mean"][0]
    images = np.zeros((count, 1, SIZE, SIZE), np.float32)
    boxes = np.zeros((count, MOST, 4), np.float32)
    labels = np.full((count, MOST), -1, np.int64)
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for i in range(count):
        images[i, 0] = _background(draw)
        found: list[tuple[int, int, int, int]] = []
        for _ in range(draw.integers(1, MOST + 1)):
            which, side = int(draw.integers(len(ink))), int(draw.integers(SMALLEST, LARGEST + 1))
            large = functional.interpolate(ink[which : which + 1], (side, side), mode="bilinear")[0, 0].numpy()
            rows, columns = np.flatnonzero((large > INK).any(1)), np.flatnonzero((large > INK).any(0))
            digit = large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            place = _free_place(draw, digit.shape, found)
            if place is None:
                continue
            x1, y1, x2, y2 = place
            seen = digit > INK
            pixels = images[i, 0, y1:y2, x1:x2]
            pixels[:] = np.where(seen, np.maximum(pixels, digit * draw.uniform(0.8, 1.0)), pixels)
            masks[i, y1:y2, x1:x2][seen] = int(digits.labels[which]) + 1
            labels[i, len(found)] = int(digits.labels[which])
            boxes[i, len(found)] = place
            found.append(place)
    shades = np.round(images * 32) / 32
    normalized = (shades - DIGITS["mean"][0]) / DIGITS["std"][0]
    arrays = (normalized.astype(np.float32), boxes, labels, masks)
    return Scenes(*(torch.from_numpy(array) for array in arrays))


def save_scenes(scenes: Scenes, path: Path) -> None:
    """Write `images`, `boxes`, `labels` and `masks` as a compressed .npz."""
    with path.open("wb") as file:
        np.savez_compressed(file, **{field.name: getattr(scenes, field.name).numpy() for field in fields(scenes)})


def read_scenes(path: Path) -> Scenes:
    """Read what `save_scenes` wrote."""
    with np.load(path) as arrays:
        return Scenes(*(torch.from_numpy(arrays[field.name]) for field in fields(Scenes)))


def _background(draw: np.random.Generator) -> np.ndarray:
    """A gray [96, 96] in [0, ½] with up to four bars in it."""
    image = np.full((SIZE, SIZE), draw.uniform(0, 0.25))
    for _ in range(draw.integers(0, 5)):
        long, short = draw.integers(8, SIZE), draw.integers(1, 8)
        height, width = (long, short) if draw.random() < 0.5 else (short, long)
        y, x = draw.integers(0, SIZE - height + 1), draw.integers(0, SIZE - width + 1)
        image[y : y + height, x : x + width] = draw.uniform(0, 0.5)
    return image


def _free_place(
    draw: np.random.Generator, shape: tuple[int, ...], taken: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    """A place x1 y1 x2 y2 for a digit of [h, w] that touches none of those taken; None where none was found."""
    height, width = shape
    for _ in range(TRIES):
        y, x = int(draw.integers(0, SIZE - height + 1)), int(draw.integers(0, SIZE - width + 1))
        if all(
            x >= x2 + TOUCH or x + width + TOUCH <= x1 or y >= y2 + TOUCH or y + height + TOUCH <= y1
            for x1, y1, x2, y2 in taken
        ):
            return x, y, x + width, y + height
    return None
