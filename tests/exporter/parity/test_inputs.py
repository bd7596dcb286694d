import math

import numpy as np
import pytest

from plainconv.exporter.parity.inputs import hot_borders, test_inputs


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
        (10e9, ["normal"] * 2 + ["zeros", "large", "hot"]),
        (50e9, ["normal"] * 2 + ["zeros", "hot"]),
    ],
)
def test_an_expensive_network_is_judged_on_fewer_images(macs: float, kinds: list[str]) -> None:
    (x,), found = test_inputs([(1, 3, 8, 8)], [np.dtype(np.float32)], seed=0, macs=macs)
    assert list(found) == kinds and x.shape == (len(kinds), 3, 8, 8) and x.dtype == np.float32
