"""Eight kinds of output and a trained detector, ten planted faults, three precisions: each refused.

What only rounds is passed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from plainconv.exporter.parity import Reference, run_onnx
from plainconv.exporter.precision import TOLERANCES, precision_of_name
from plainconv.exporter.precision.edit import load
from plainconv.exporter.precision.run import run_of
from plainconv.exporter.precision.typed import _calibrated, _Maker, judged_by, units_of

SMALL = (
    "classifier", "decoded detector", "raw detector maps", "segmenter", "embedding", "argmax", "two outputs",
    "token scores",
)  # fmt: skip
KINDS = (*SMALL, "digits_detector")
PRECISIONS = ("fp32", "fp16", "int8")


def channels_of(y: np.ndarray) -> int:
    """The axis of the channels: the last of three, unless that is of places."""
    return 1 if y.ndim != 3 or y.shape[1] in (9, 14) else 2


def swapped(y: np.ndarray) -> np.ndarray:
    y = y.copy()
    y[[1, 2]] = y[[2, 1]]
    return y


def dead(y: np.ndarray) -> np.ndarray:
    y = y.copy()
    if y.dtype.kind == "i":
        y[y == np.bincount(y.ravel()).argmax()] = 0 if np.bincount(y.ravel()).argmax() else 1
    else:
        np.moveaxis(y, channels_of(y), 0)[-1] = 0
    return y


def not_a_number(y: np.ndarray) -> np.ndarray:
    y = y.astype(np.float32)
    y[3].ravel()[5] = np.nan
    return y


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "zero": np.zeros_like,
    "constant": lambda y: np.broadcast_to(np.median(y, axis=0).astype(y.dtype), y.shape),
    "shuffled": lambda y: np.random.default_rng(0).permutation(y, axis=0),
    "rolled": lambda y: (y + 1) % 6 if y.dtype.kind == "i" else np.roll(y, 1, axis=channels_of(y)),
    "halved": lambda y: y // 2 if y.dtype.kind == "i" else y / 2,
    "inverted": lambda y: y.max() - y if y.dtype.kind == "i" else -y,
    "shifted": lambda y: y + 1 if y.dtype.kind == "i" else y + y.std(axis=0).mean(),
    "one channel dead": dead,
    "one image swapped": swapped,
    "NaN": not_a_number,
}


class Step:
    """What one precision of a network gives, and what that is held to."""

    def __init__(self, net: Any, precision: str) -> None:
        self.tolerance = TOLERANCES.get(precision)
        self.reference: Reference = net.reference
        if precision == "fp32":
            self.reference, run = net.reference, run_of(load(net.path))
        else:
            wanted = precision_of_name(precision)
            self.reference, model = judged_by(net.reference, wanted), load(net.path)
            maker, _ = _calibrated(_Maker(model, wanted, units_of(model)), None, self.reference, wanted.tolerance)
            run = run_of(maker.model_with(frozenset()))
        self.outputs = self.reference.run(run)

    def failed(self, outputs: list[np.ndarray]) -> bool:
        """Whether it is refused."""
        return not all(self.reference.compare("step", outputs, self.tolerance))


@pytest.fixture(scope="module")
def step_of(net_of: Callable[[str], Any]) -> Callable[[str, str], Step]:
    made: dict[tuple[str, str], Step] = {}

    def get(kind: str, precision: str) -> Step:
        key = (kind, precision)
        if key not in made:
            made[key] = Step(net_of(kind), precision)
        return made[key]

    return get


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_only_rounds_is_passed(step_of: Callable[[str, str], Step], kind: str, precision: str) -> None:
    """Given all layers in the precision, nothing kept → held."""
    step = step_of(kind, precision)
    assert [p.status for p in step.reference.compare("step", step.outputs, step.tolerance)] == ["held"] * len(
        step.outputs
    )


@pytest.mark.parametrize("kind", SMALL)
def test_another_order_of_summation_and_the_runtimes_optimizer_are_passed(
    net_of: Callable[[str], Any], tmp_path: Path, kind: str
) -> None:
    """Given the hidden channels in another order, and all that ONNX Runtime fuses → held as float32."""
    net = net_of(kind)
    model = onnx.load(net.path)
    order = np.random.default_rng(1).permutation
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    if kind == "token scores":
        p = order(32)
        arrays |= {"m0": arrays["m0"][:, p], "m1": arrays["m1"][p]}
    else:
        p = order(8)
        arrays |= {"w0": arrays["w0"][p], "w1": arrays["w1"][:, p]}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    for path, optimized in ((tmp_path / "other.onnx", False), (net.path, True)):
        found = net.reference.judge("step", run_onnx(path, optimized=optimized))
        assert [p.status for p in found] == ["held"] * len(found)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_refused(step_of: Callable[[str, str], Step], kind: str, fault: str, precision: str) -> None:
    """Given the step's own outputs, the last of them with the fault → refused."""
    step = step_of(kind, precision)
    outputs = [*step.outputs[:-1], FAULTS[fault](step.outputs[-1])]
    assert step.failed(outputs)


def on_boxes(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda y: np.concatenate([change(y[:, :4]), y[:, 4:]], 1)


def on_scores(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda y: np.concatenate([y[:, :4], change(y[:, 4:])], 1)


OF_DETECTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "no scores": on_scores(np.zeros_like),
    "classes rolled": on_scores(lambda s: np.roll(s, 1, axis=1)),
    "scores halved": on_scores(lambda s: s / 2),
    "boxes 3 px off": on_boxes(lambda b: b + 3),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fault", OF_DETECTORS)
def test_half_of_a_detector_that_is_wrong_is_refused(
    step_of: Callable[[str, str], Step], fault: str, precision: str
) -> None:
    """Given boxes or scores alone with a fault -> refused, though the other half is as it should be."""
    step = step_of("digits_detector", precision)
    assert step.failed([OF_DETECTORS[fault](step.outputs[0])])
