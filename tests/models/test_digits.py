"""The handwritten digits: a fixed split, and what the shipped images hold."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plainconv.exporter.errors import PlainconvError
from plainconv.models import entries
from plainconv.models.digits import HELD_OUT, Digits, load_digits, save_digits, shifted


def test_split_is_fixed_and_disjoint() -> None:
    training, held_out = load_digits()
    assert len(training.images) == 1400
    assert len(held_out.images) == HELD_OUT == 397
    assert held_out.images.shape[1:] == entries()["vanillanet_digits"].input_shape[1:]
    assert held_out.labels.bincount().min() >= 30
    again = load_digits()[1]
    assert torch.equal(held_out.images, again.images)
    seen = {image.numpy().tobytes() for image in training.images}
    assert not any(image.numpy().tobytes() in seen for image in held_out.images)


def test_images_are_enlarged_and_normalized() -> None:
    _, held_out = load_digits()
    preprocessing = entries()["parnet_digits"].preprocessing
    low, high = (
        (shade - preprocessing["mean"][0]) / preprocessing["std"][0] for shade in (0.0, 255 * preprocessing["scale"])
    )
    assert held_out.images.min().item() == pytest.approx(low)
    assert held_out.images.max().item() == pytest.approx(high)
    corner = held_out.images[0, 0, :2, :2]
    assert torch.equal(corner, corner[0, 0].expand(2, 2))  # bilinear: outer pixels repeat the border


def test_shipped_images_are_the_held_out_ones(assets: Path) -> None:
    _, held_out = load_digits()
    with np.load(assets / "digits_heldout.npz") as shipped:
        assert (shipped["images"].dtype, shipped["labels"].dtype) == (np.float32, np.int64)
        np.testing.assert_allclose(shipped["images"], held_out.images.numpy(), atol=1e-6)
        np.testing.assert_array_equal(shipped["labels"], held_out.labels.numpy())


def test_saved_digits_read_back(tmp_path: Path) -> None:
    digits = Digits(torch.randn(3, 1, 4, 4), torch.tensor([1, 2, 3]))
    save_digits(digits, tmp_path / "some.npz")
    with np.load(tmp_path / "some.npz") as read:
        assert np.array_equal(read["images"], digits.images.numpy())
        assert np.array_equal(read["labels"], digits.labels.numpy())


def test_shifted_images_are_windows_of_the_padded_ones() -> None:
    images = torch.arange(2 * 36.0).view(2, 1, 6, 6)
    moved = shifted(images, 2, torch.Generator().manual_seed(3))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    for image, original in zip(moved, padded, strict=True):
        windows = [original[:, r : r + 6, c : c + 6] for r in range(5) for c in range(5)]
        assert any(torch.equal(image, window) for window in windows)
    assert torch.equal(shifted(images, 0, torch.Generator()), images)


def test_missing_scikit_learn_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(PlainconvError, match=r"scikit-learn is not installed.*pip install 'plainconv"):
        load_digits()
