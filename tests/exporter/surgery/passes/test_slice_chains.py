import numpy as np
import pytest

from plainconv.exporter.surgery.passes.slice_chains import SliceChains

BODY = "a = Slice(x, s, e, i, t) y = Slice(a, p, q, j, u)"
ENDS = "(double[2,3,8,8] x) => (double[2,C,Y,X] y)"


def limits(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    """(start, end, axis, step) of both."""
    return {name: np.array([n]) for name, n in zip("seitpqju", [*first, *second], strict=True)}


@pytest.mark.parametrize(
    ("first", "second"),
    [((0, 1 << 60, 2, 2), (1, 1 << 60, 3, 2)), ((-1, -9, -1, -1), (1, 3, 1, 1)), ((2, -1, 3, 1), (-2, 99, -3, 1))],
)
def test_slices_of_two_axes_are_one(check_pass, first: tuple, second: tuple) -> None:
    check_pass(SliceChains(), f"{ENDS} {{ {BODY} }}", ["Slice"], limits(first, second))


@pytest.mark.parametrize("body", [BODY, f"{BODY.replace('y =', 'b =')} y = Concat<axis=3>(b, a)"])
def test_of_one_axis_or_read_elsewhere_they_stay(check_pass, body: str) -> None:
    second = (1, 3, -1, 1) if body == BODY else (0, 8, 2, 1)
    check_pass(SliceChains(), f"{ENDS} {{ {body} }}", None, limits((1, 6, 3, 1), second))
