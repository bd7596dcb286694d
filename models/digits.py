"""Scikit-learn's handwritten digits: 1797 real images of 8×8 pixels, in 17 shades of gray."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from plainconv.exporter.errors import PlainconvError

from . import DIGITS

HELD_OUT = 397
SPLIT_SEED = 0
UPSAMPLE = 4
SHADES = 16.0


@dataclass(frozen=True)
class Digits:
    """Images [N, 1, 32, 32] float32, ready for a network, and labels [N] int64."""

    images: Tensor
    labels: Tensor


def load_digits() -> tuple[Digits, Digits]:
    """Load 1400 images to train on and 397 held out, always the same ones.

    Each is enlarged 4× bilinearly, scaled to [0, 1] and normalized with the catalogue's mean and deviation.

    Raises:
        PlainconvError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise PlainconvError(
            "scikit-learn is not installed; wanted for its handwritten digits; pip install 'plainconv[dev]'"
        ) from None
    pixels, labels = datasets.load_digits(return_X_y=True)
    small = torch.from_numpy(pixels).reshape(-1, 1, 8, 8) / SHADES
    large = functional.interpolate(small, scale_factor=UPSAMPLE, mode="bilinear", align_corners=False)
    images = ((large - DIGITS["mean"][0]) / DIGITS["std"][0]).float()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, training = order[:HELD_OUT], order[HELD_OUT:]
    targets = torch.from_numpy(labels).long()
    return Digits(images[training], targets[training]), Digits(images[held_out], targets[held_out])


def save_digits(digits: Digits, path: Path) -> None:
    """Write `images` and `labels` as a compressed .npz."""
    with path.open("wb") as file:
        np.savez_compressed(file, images=digits.images.numpy(), labels=digits.labels.numpy())


def shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `reach` pixels either way, its border repeated; [N, C, H, W] in and out."""
    n, _, height, width = images.shape
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    down, right = torch.randint(0, 2 * reach + 1, (2, n), generator=generator)
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
