"""Which requests may share a run."""

import numpy as np
import pytest

from plainconv.engines.serving.batch_axis import Covering, batch_axis
from plainconv.exporter.bundle import ShapeRange, TensorSpec

Shape = tuple[int | str, ...]


def specs(*shapes: Shape) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"t{i}", "float32", shape) for i, shape in enumerate(shapes))


@pytest.mark.parametrize(
    ("inputs", "outputs", "axis"),
    [
        (specs(("N", 3)), specs(("N", 2)), "N"),
        (specs(("N", "H"), ("N",)), specs(("N", "H")), "N"),
        (specs((1, 3)), specs((1, 2)), None),
        (specs(("N", 3)), specs((1, 2)), None),
        (specs(("N", 3)), specs(("M", 2)), None),
        (specs(("N", 3), (3,)), specs(("N", 2)), None),
        (specs(("N", 3)), specs(("N", "N")), None),
        (specs(("N", 3)), specs(()), None),
        (specs((3, "N")), specs((3, "N")), None),
    ],
)
def test_batch_axis(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], axis: str | None) -> None:
    """Given a model -> its batch axis, where axis 0 of everything is open and the same."""
    assert batch_axis(inputs, outputs) == axis


def test_covering() -> None:
    """Given optimization profiles -> so many rows of these shapes where one of them covers both."""
    profiles = (
        {"x": ShapeRange((1, 3, 8), (2, 3, 8), (4, 3, 8))},
        {"x": ShapeRange((8, 3, 8), (8, 3, 8), (16, 3, 9))},
    )
    covering = Covering(("x",), 12, profiles)
    eight, nine = (covering.tails({"x": np.zeros((1, 3, size))}) for size in (8, 9))
    assert [rows for rows in range(1, 20) if covering.takes(rows, eight)] == [1, 2, 3, 4, 8, 9, 10, 11, 12]
    assert [rows for rows in range(1, 20) if covering.takes(rows, nine)] == [8, 9, 10, 11, 12]
    assert [rows for rows in range(1, 20) if Covering(("x",), 3).takes(rows, nine)] == [1, 2, 3]
