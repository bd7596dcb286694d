"""Axes of places and ranks: told by the sizes of the inputs, never taken for parts."""

import numpy as np
import pytest

from plainconv.exporter.parity.places import Shape, places_of


@pytest.mark.parametrize(
    ("output", "image", "places"),
    [
        ((84, 8400), (3, 640, 640), {2}),  # 80² + 40² + 20²
        ((8400, 84), (3, 640, 640), {1}),
        ((25200, 85), (640, 640, 3), {1}),  # three anchors each
        ((9, 256), (3, 16, 16), {2}),
        ((197, 768), (3, 224, 224), set()),  # 14² and one: tokens, which are as many as they are
        ((196, 768), (3, 224, 224), {1}),
        ((480, 640), (3, 480, 640), {1, 2}),
        ((240, 320), (480, 640, 3), {1, 2}),
        ((33, 25), (1, 65, 49), {1, 2}),
        ((64, 64), (3, 16, 16), {1, 2}),
        ((12, 24), (12,), {1}),
        ((300, 4), (3, 640, 640), set()),
        ((5456, 80), (3, 512, 512), {1}),  # of classes there are as many as of places at strides 64 and 128
        ((17, 3), (3, 256, 192), set()),
        ((3, 3), (3, 9, 9), set()),
        ((4, 4), (3, 16, 16), set()),
    ],
)
def test_places_follow_the_input(output: Shape, image: Shape, places: set[int]) -> None:
    assert places_of([np.zeros((2, *output))], [image]) == [places]


def test_vectors_and_what_follows_nothing_have_none() -> None:
    outputs = [np.zeros((2, *shape)) for shape in ((84, 80, 80), (1000,), (256, 1024))]
    assert places_of(outputs, [(3, 640, 640)]) == [{2, 3}, set(), set()]
    assert places_of([np.zeros((2, 64, 1024))], [(3, 256, 256)]) == [set()], "either may be the places"


def test_ranks_of_a_list_are_no_parts() -> None:
    scores = -np.sort(-np.random.default_rng(0).uniform(0, 1, (4, 20)), axis=1)
    assert places_of([np.zeros((4, 20, 4)), scores, np.zeros(4)], [(3, 64, 64)]) == [{1}, {1}, set()]
