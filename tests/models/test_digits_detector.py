"""The small detector and segmenter: shapes, decoding, and both forms."""

import pytest
import torch

from plainconv.models import create, entries
from plainconv.models.digits_detector import STRIDES, decode


def test_decoding_by_hand() -> None:
    """Given distances of softplus⁻¹(1) strides at place (row 1, column 2) → a box of two strides about its centre."""
    raw = torch.full((1, 6, 3, 4), -20.0)
    raw[0, :4, 1, 2] = torch.tensor(1.0).expm1().log()
    raw[0, 5, 1, 2] = 0.0
    decoded = decode(raw, 8)
    assert decoded.shape == (1, 6, 12)
    at = decoded[0, :, 1 * 4 + 2]
    torch.testing.assert_close(at, torch.tensor([12.0, 4.0, 28.0, 20.0, 0.0, 0.5]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
@pytest.mark.parametrize("deploy", [False, True])
def test_shapes(size: tuple[int, int], deploy: bool) -> None:
    images = torch.zeros(2, 1, *size)
    places = sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)
    with torch.inference_mode():
        assert create("digits_detector", deploy=deploy).eval()(images).shape == (2, 14, places)
        assert create("digits_segmenter", deploy=deploy).eval()(images).shape == (2, 11, *size)


def test_they_take_scenes() -> None:
    for name in ("digits_detector", "digits_segmenter"):
        assert entries()[name].input_shape == (1, 1, 96, 96)
        assert entries()[name].preprocessing["color"] == "gray"
