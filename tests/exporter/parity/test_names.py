"""Names: each that is there with some share is to be found again, however rare it is."""

from collections.abc import Callable

import numpy as np
import pytest

from plainconv.exporter.parity.classes import lost_classes
from plainconv.exporter.parity.measure import agreement
from plainconv.exporter.parity.names import lost_names
from plainconv.exporter.parity.wanted import wanted_output

IMAGES = 20


def discs(seed: int, radius: float, classes: int = 4) -> np.ndarray:
    """Class 0 but for a disc of another class in each image, somewhere else in each: [images, 32, 32]."""
    rng = np.random.default_rng(seed)
    y = np.zeros((IMAGES, 32, 32), np.int64)
    rows, columns = np.mgrid[:32, :32]
    for i in range(IMAGES):
        centre = rng.uniform(6, 26, 2)
        y[i][(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = 1 + i % (classes - 1)
    return y


def at_borders(y: np.ndarray, share: float) -> np.ndarray:
    """Some of the positions next to another name have that instead, as a lower precision has it."""
    other = np.roll(y, 1, axis=-1)
    return np.where((other != y) & (np.random.default_rng(1).uniform(size=y.shape) < share), other, y)


def refused(values: np.ndarray, y: np.ndarray) -> bool:
    found = agreement(wanted_output(values, [], ("data",) * len(values), np.arange(len(values))), y, 0.3)
    return bool(found.why) or found.error > found.tolerance


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the commonest everywhere": np.zeros_like,
    "the commonest at each place": lambda y: np.broadcast_to(np.median(y, axis=0).astype(y.dtype), y.shape),
    "one class gone": lambda y: np.where(y == 2, 0, y),
    "two classes exchanged": lambda y: np.select([y == 1, y == 2], [2, 1], y),
    "a class where there is none": lambda y: np.where((y == 0) & (np.arange(32) < 1), 3, y),
    "two pixels on": lambda y: np.roll(y, 2, axis=-1),
    "another image's": lambda y: np.roll(y, 1, axis=0),
    "two images exchanged": lambda y: np.concatenate([y[[1, 0]], y[2:]]),
    "half of one class": lambda y: np.where((y == 2) & (np.arange(32) % 2 == 0), 0, y),
}


@pytest.mark.parametrize("radius", [2.5, 4, 9], ids="{} px".format)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_map_that_is_of_one_class_nearly_everywhere(fault: str, radius: float) -> None:
    """Given 98 %, 95 % or 75 % of one class -> what a lower precision does to borders is held, each fault refused."""
    y = discs(0, radius)
    assert not refused(y, at_borders(y, 0.1))
    assert refused(y, FAULTS[fault](y))


def test_a_class_that_is_noise_need_not_be_found_wholly() -> None:
    """Given a class in single places, .4 % of them, of which a fifth is elsewhere -> held; none of it -> refused."""
    rng = np.random.default_rng(2)
    y = discs(3, 9)
    there = rng.uniform(size=y.shape) < 0.004
    y[there] = 7
    moved = there & (rng.uniform(size=y.shape) < 0.2)
    noisy = np.where(moved, 0, y)
    noisy[np.roll(moved, 1, axis=-1)] = 7
    assert not refused(y, noisy) and refused(y, np.where(there, 0, y))
    assert lost_names(y, np.where(there, 0, y)).startswith("of 7 only 0%")


@pytest.mark.parametrize(("others", "wrong", "held"), [(0, 0, True), (1, 0, True), (1, 1, False), (5, 1, True)])
def test_labels_of_images_of_which_nearly_all_are_of_one_class(others: int, wrong: int, held: bool) -> None:
    """Given one label an image -> none is spare where one is all that tells them from a constant."""
    y = np.where(np.arange(IMAGES) < others, 3, 1)
    found = np.where(np.arange(IMAGES) < wrong, 1, y)
    assert refused(y, found) != held
    assert others == 0 or refused(y, np.full_like(y, 1))


def test_scores_whose_largest_is_nearly_always_the_same() -> None:
    """Given 96 images of one class and four of another -> that these four are lost is said, that one is is not."""
    scores = np.zeros((100, 3))
    scores[:, 1], scores[:4, 2] = 1, 2
    lost = np.where(scores == 2, 0, scores)
    one = np.concatenate([lost[:1], scores[1:]])
    assert lost_classes(scores, lost).startswith("of the images that are not of class 1 only 0%")
    assert lost_classes(scores, one) == "" == lost_classes(scores[3:], lost[3:])
