"""Whether the arrays of a request are what a model takes."""

from typing import Any

import numpy as np
import pytest

from plainconv.engines.serving.checks import check_inputs, wanted_outputs
from plainconv.engines.serving.refusals import BadRequestError
from plainconv.engines.serving.requests import InferRequest, WantedOutput
from plainconv.exporter.bundle import TensorSpec

SPECS = (TensorSpec("x", "float32", ("N", 3)), TensorSpec("m", "bool", ("N",)))
OUTPUTS = (TensorSpec("y", "float32", ("N", 2)), TensorSpec("z", "float32", ("N",)))


def arrays(x: Any = (2, 3), m: Any = (2,), dtype: Any = np.float32) -> dict[str, Any]:
    return {"x": np.zeros(x, dtype), "m": np.zeros(m, bool)}


def test_what_fits() -> None:
    """Given names, datatypes and shapes of the model -> nothing is said."""
    inputs = arrays()
    check_inputs(inputs, SPECS)
    with pytest.raises(BadRequestError):  # and the same check does not pass whatever it is given
        check_inputs({**inputs, "x": inputs["x"][0]}, SPECS)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"x": arrays()["x"]}, r"input 'm' is missing; the model takes x FP32\[N, 3\], m BOOL\[N\]"),
        ({**arrays(), "a\nb": arrays()["m"]}, r"there is no input 'a\\nb'; the model takes x"),
        (arrays(dtype=np.float64), "input 'x' has datatype FP64, wanted FP32"),
        (arrays(x=(2,)), r"input 'x' has 1 axes, wanted 2: \[N, 3\]"),
        (arrays(x=(2, 4)), r"input 'x' has shape \[2, 4\], wanted \[N, 3\] where N = 2"),
        (arrays(m=(3,)), r"input 'm' has shape \[3\], wanted \[N\] where N = 2"),
        (arrays(x=(0, 3)), r"input 'x' has shape \[0, 3\], wanted \[N, 3\]"),
    ],
)
def test_what_does_not_fit(inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        check_inputs(inputs, SPECS)


def test_wanted_outputs() -> None:
    """Given none asked for -> all; some -> those, in that order, sent as they say or as the request does."""
    assert wanted_outputs(InferRequest({}, binary=True), OUTPUTS) == (WantedOutput("y", True), WantedOutput("z", True))
    some = (WantedOutput("z", False), WantedOutput("y"))
    assert wanted_outputs(InferRequest({}, some, binary=True), OUTPUTS) == (
        WantedOutput("z", False),
        WantedOutput("y", True),
    )


@pytest.mark.parametrize(
    ("outputs", "said"), [(("q",), "no output 'q'; the model gives y FP32"), (("y", "y"), "'y' is asked for twice")]
)
def test_outputs_that_are_not_there(outputs: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        wanted_outputs(InferRequest({}, tuple(map(WantedOutput, outputs))), OUTPUTS)
