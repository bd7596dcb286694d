import math

import numpy as np
import pytest

from plainconv.exporter.parity.inputs import Scale, hot_borders, test_inputs


@pytest.mark.parametrize(
    ("image", "spots"), [((3, 9, 8), 8), ((1, 2, 2), 4), ((2, 1, 1), 1), ((4, 9), 2), ((1, 1, 5), 3)]
)
def test_hot_borders_has_a_pixel_at_each_corner_and_border_and_the_energy_of_a_normal_image(
    image: tuple[int, ...], spots: int
) -> None:
    x = hot_borders(image)
    assert (x != 0).sum() == spots * image[0]
    assert (x**2).sum() == pytest.approx(math.prod(image), rel=1e-6)
    for axis in range(1, len(image)):
        assert np.take(x, 0, axis=axis).any()
        assert np.take(x, -1, axis=axis).any()


@pytest.mark.parametrize(
    ("macs", "kinds"),
    [
        (1e6, ["normal"] * 13 + ["zeros", "large", "hot"]),
        (8e9, ["normal"] * 2 + ["zeros", "large", "hot"]),
        (10e9, ["normal"] * 2 + ["zeros", "hot"]),
        (300e9, ["normal"] * 2 + ["hot"]),
    ],
)
def test_an_expensive_network_is_judged_on_fewer_images(macs: float, kinds: list[str]) -> None:
    made = test_inputs({"x": np.zeros((1, 3, 8, 8), np.float32)}, seed=0, macs=macs)
    x = made.arrays["x"]
    assert list(made.kinds) == kinds and x.shape == (len(kinds), 3, 8, 8) and x.dtype == np.float32


def test_bytes_are_pixels_over_their_whole_range_with_neighbours_alike() -> None:
    x = test_inputs({"x": np.zeros((1, 32, 32, 3), np.uint8)}, seed=0).arrays["x"]
    assert x.dtype == np.uint8 and x[:13].min() == 0 and x[:13].max() == 255
    assert not x[13].any()  # the image of zeros is black
    pixels = x[:13].astype(np.float64)
    apart = np.abs(np.diff(pixels, axis=1)).mean() / np.abs(pixels - np.roll(pixels, 16, axis=1)).mean()
    assert apart < 0.9


def test_wider_integers_are_drawn_from_the_range_of_the_example() -> None:
    x = test_inputs({"x": np.array([[3, 999, 5]])}, seed=0).arrays["x"]
    assert x.dtype == np.int64 and x.min() >= 0 and 300 < x.max() <= 999
    assert set(np.unique(test_inputs({"x": np.zeros((1, 9), bool)}, seed=0).arrays["x"])) == {False, True}


def test_inputs_of_any_kind_go_together_and_one_without_a_batch_axis_keeps_its_value() -> None:
    examples = {"x": np.zeros((2, 3, 4, 4), np.float32), "i": np.full((2, 5), 7), "size": np.array([480.0, 640, 1])}
    made = test_inputs(examples, seed=0)
    assert made.whole == {"size"}
    assert {name: x.shape[1:] for name, x in made.arrays.items()} == {"x": (3, 4, 4), "i": (5,), "size": (3,)}
    assert (made.arrays["size"] == examples["size"]).all()


def test_images_are_at_the_scale_that_the_network_takes() -> None:
    example = {"x": np.zeros((1, 3, 32, 32), np.float32)}
    made = test_inputs(example, seed=0, scales={"x": Scale(127.5, 60.0)})
    x, plain = made.arrays["x"], test_inputs(example, seed=0).arrays["x"]
    random = np.isin(made.kinds, "normal")
    assert x[random] == pytest.approx(127.5 + 60 * plain[random], rel=1e-5, abs=1e-3)
    assert not x[made.kinds.index("zeros")].any()


def test_the_users_images_by_input() -> None:
    data = {"b": np.full((4, 2), 9.0)}
    made = test_inputs({"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 2), np.float32)}, seed=0, data=data)
    shown = np.isin(made.kinds, "data")
    assert shown.sum() == 4 and (made.arrays["b"][shown] == 9).all()
    assert made.arrays["a"][shown].std() > 0.3
