"""Scenes of digits: what is said of them holds, and those that ship are the held-out ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from plainconv.models import entries
from plainconv.models.digits import Digits, load_digits
from plainconv.models.training.scenes import (
    HELD_OUT,
    MOST,
    SIZE,
    TOUCH,
    Scenes,
    draw_scenes,
    load_scenes,
    read_scenes,
    save_scenes,
)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()[1]


@pytest.fixture(scope="module")
def scenes(digits: Digits) -> Scenes:
    return draw_scenes(digits, 40, seed=5)


def test_each_digit_is_where_its_box_and_mask_say(scenes: Scenes) -> None:
    """Given a scene → each box is the smallest about the pixels of its label, and all pixels are in boxes."""
    for boxes, labels, mask in zip(scenes.boxes, scenes.labels, scenes.masks, strict=True):
        seen = torch.zeros_like(mask)
        for (x1, y1, x2, y2), label in zip(boxes[labels >= 0].int().tolist(), labels[labels >= 0], strict=True):
            inside = mask[y1:y2, x1:x2]
            assert set(inside.unique().tolist()) <= {0, int(label) + 1}
            ink = inside > 0
            assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()
            seen[y1:y2, x1:x2] = 1
        assert not (mask[seen == 0]).any()


def test_digits_do_not_touch(scenes: Scenes) -> None:
    for boxes, labels in zip(scenes.boxes, scenes.labels, strict=True):
        placed = boxes[labels >= 0]
        for i, a in enumerate(placed):
            for b in placed[:i]:
                assert bool((a[:2] >= b[2:] + TOUCH).any() or (b[:2] >= a[2:] + TOUCH).any())


def test_shapes_counts_and_shades(scenes: Scenes) -> None:
    assert scenes.images.shape == (40, *entries()["digits_detector"].input_shape[1:]) == (40, 1, SIZE, SIZE)
    assert scenes.boxes.shape == (40, MOST, 4) and scenes.labels.shape == (40, MOST)
    counts = (scenes.labels >= 0).sum(1)
    assert counts.min() >= 1 and counts.max() == MOST
    shades = scenes.images * 0.4 + 0.3
    assert shades.min() >= -1e-6 and shades.max() <= 1 + 1e-6


def test_a_seed_decides_them(digits: Digits) -> None:
    first, same, other = (draw_scenes(digits, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.images, same.images) and torch.equal(first.boxes, same.boxes)
    assert not torch.equal(first.images, other.images)


def test_saved_scenes_read_back(scenes: Scenes, tmp_path: Path) -> None:
    save_scenes(scenes, tmp_path / "some.npz")
    read = read_scenes(tmp_path / "some.npz")
    assert all(torch.equal(getattr(read, name), getattr(scenes, name)) for name in vars(scenes))


def test_shipped_scenes_are_the_held_out_ones(assets: Path) -> None:
    """The arrays drawn anew: but for a shade that rounds the other way on another machine."""
    _, held_out = load_scenes(training=0)
    shipped = read_scenes(assets / "scenes_heldout.npz")
    assert len(shipped.images) == HELD_OUT
    assert torch.equal(shipped.boxes, held_out.boxes) and torch.equal(shipped.labels, held_out.labels)
    assert float((shipped.masks != held_out.masks).float().mean()) < 1e-3
    assert float(((shipped.images - held_out.images).abs() > 1e-5).float().mean()) < 1e-3
    assert np.isfinite(shipped.images.numpy()).all()
    assert (assets / "scenes_heldout.npz").stat().st_size <= 1_000_000
