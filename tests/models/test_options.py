"""Options take what they say, and nothing else."""

from typing import Any

import pytest

from plainconv.models.options import Option, fraction, problems_of, whole, wholes, word


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        (whole(3), [1, 1000], [0, -1, 1.0, "1", True, None]),
        (whole(3, low=0, high=15), [0, 15], [-1, 16]),
        (fraction(0.5), [0, 0.25, 1, 1.0], [-0.1, 1.1, float("nan"), "0.5", False]),
        (word("relu", "silu"), ["relu", "silu"], ["ReLU", "", None, 1]),
        (wholes((1, 2)), [[3, 4], (5, 6)], [[1], [1, 2, 3], [1, 0], [1, "2"], 12, "12"]),
    ],
)
def test_options_accept_what_they_want(option: Option, good: list[Any], bad: list[Any]) -> None:
    assert option.accepts(option.default)
    assert all(option.accepts(value) for value in good)
    assert not any(option.accepts(value) for value in bad)


def test_problems_give_found_and_wanted() -> None:
    known = {"classes": whole(10), "rate": fraction(0.0)}
    assert problems_of({"classes": "ten", "depth": 3}, known) == [
        "option depth is unknown, wanted one of classes, rate",
        "classes is 'ten', wanted a whole number from 1 on",
    ]
    assert problems_of({"classes": 2, "rate": 0.5}, known) == []
