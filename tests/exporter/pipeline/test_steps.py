"""The record of the steps: what is kept, what is forgotten, what stops a job."""

import numpy as np
import pytest

from plainconv.exporter.bundle import TensorSpec
from plainconv.exporter.errors import CheckFailedError
from plainconv.exporter.parity import EvalData, Parity, Reference, not_executed
from plainconv.exporter.parity.accuracy import Scores
from plainconv.exporter.parity.wanted import wanted_output
from plainconv.exporter.pipeline.steps import Steps, fed

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def reference(y=X):
    """The identity on three numbers, as if they were scores."""
    kinds = ("normal",) * 6
    wanted = wanted_output(y.astype(np.float64), [(y * (1 + 1e-7)).astype(np.float64)], kinds, np.arange(6))
    return Reference(1, {"x": X}, kinds, {"y": wanted})


def same(x):
    return [x]


def test_a_file_that_is_measured_again_has_one_record():
    """Given a step of a file again -> its new record in the place of the old one; other files and steps stay."""
    steps = Steps(reference(), None)
    steps.check("ONNX", same)
    for file in ("a", "b", "a"):
        steps.check(f"of {file}", same, file=file, tolerance=0.1)
    assert [(p["step"], p.get("file")) for p in steps.parities] == [("ONNX", None), ("of b", "b"), ("of a", "a")]
    steps.forget("b")
    assert [p["step"] for p in steps.parities] == ["ONNX", "of a"]
    steps.raise_failed()


def test_a_step_is_held_to_the_tolerance_it_is_given():
    """Given an error of about 0.05 spreads -> held within 0.1, failed within 0.01 and as float32."""
    for tolerance, status in ((0.1, "held"), (0.01, "failed"), (None, "failed")):
        steps = Steps(reference(), None)
        steps.check("step", lambda x: [x + np.float32(0.05)], tolerance=tolerance)
        assert steps.parities[0]["status"] == status
        assert bool(steps.failed) == (status == "failed")
    with pytest.raises(CheckFailedError, match=r"step, y: failed.*; nothing was written"):
        steps.raise_failed()


def test_steps_against_another_reference_go_into_the_same_record():
    steps = Steps(reference(), None)
    other = steps.against(reference(X + 1))
    other.check("other", same, tolerance=0.1)
    assert [p["status"] for p in steps.parities] == ["failed"] and len(steps.failed) == 1
    assert steps.reference.outputs["y"].values[0, 0] != other.reference.outputs["y"].values[0, 0]


def test_accuracy_is_counted_beside_the_base():
    """Given a base and a step that gets one image fewer right -> in the record; fp32 fails, 1 % of six is none too."""
    data = EvalData(X, X.argmax(axis=1))
    wrong = X.copy()
    wrong[0] = np.roll(X[0], 1)

    def one_off(x):
        return [wrong[:1]] if np.array_equal(x[0], X[0]) else [x]

    for tolerance, says in ((None, "1 images differ from"), (9.0, "1 fewer than the network before; at most 1%")):
        steps = Steps(reference(), data)
        steps.count_base(same)
        steps.check("step", one_off, tolerance=tolerance)
        assert steps.parities[0]["accuracy"] == {"correct": 5, "images": 6, "changed": 1}
        assert any(says in failed for failed in steps.failed)


class Shares:
    """Judges by the share of numbers that are those of `X`, as if it were AP."""

    def of_inputs(self, names):
        return {}

    def count(self, run, batch):
        return Scores({"AP": float(np.mean(run(X)[0] == X)), "AP50": 1.0}, len(X))


@pytest.mark.parametrize(
    ("lost", "tolerance", "holds"), [(0, None, True), (1, None, False), (1, 9.0, False), (0, 9.0, True)]
)
def test_a_step_that_loses_the_score_that_counts_is_refused(lost, tolerance, holds):
    """Given one of 18 numbers lost -> its scores in the record, and more than .001 in float32, .01 else, is refused."""
    moved = X.copy()
    moved.ravel()[:lost] += np.float32(1e-4)
    steps = Steps(reference(), Shares())
    steps.count_base(same)
    steps.check("step", lambda x: [moved] if len(x) == 6 else [x], tolerance=tolerance)
    assert steps.parities[0]["accuracy"] == {"scores": {"AP": (18 - lost) / 18, "AP50": 1.0}, "images": 6}
    assert any("the network before has AP 1.0000" in failed for failed in steps.failed) == (not holds)


def test_without_a_base_the_first_step_is_it():
    steps = Steps(reference(), EvalData(X, X.argmax(axis=1)))
    steps.check("eager", same, judged=False)
    steps.check("ONNX", same)
    assert [p["status"] for p in steps.parities] == ["the reference", "held"]
    assert all(p["accuracy"]["correct"] == 6 for p in steps.parities) and steps.failed == []


def test_a_step_that_was_not_executed_fails_nothing():
    steps = Steps(reference(), None)
    parity = not_executed("engine", "y", "no GPU")
    assert isinstance(parity, Parity)
    steps.add(parity, file="a")
    assert steps.parities[0]["status"] == "not executed: no GPU" and steps.parities[0]["file"] == "a"
    steps.raise_failed()


def test_a_run_is_fed_in_the_types_of_its_inputs():
    seen = []
    specs = (TensorSpec("a", "float16", (1, 3)), TensorSpec("b", "int64", (1,)))
    fed(lambda *arrays: seen.extend(array.dtype for array in arrays) or [], [spec.dtype for spec in specs])(
        X[:1], np.zeros(1, np.int32)
    )
    assert seen == [np.float16, np.int64]
