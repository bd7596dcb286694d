import dataclasses
import json
import math

from plainconv.exporter.parity import Parity, not_executed

HELD = Parity("onnx", "logits", 1e-6, 4e-6, 2.0, 1e-6, (3, 17), "large", 1.0, "held")


def test_a_parity_that_held_is_true_and_explains_itself() -> None:
    assert HELD
    text = str(HELD)
    assert all(part in text for part in ("onnx", "logits", "held", "1.00e-06", "4.00e-06", "image 3 (large)", "[17]"))


def test_nan_never_passes() -> None:
    assert not dataclasses.replace(HELD, error=math.nan)
    assert not dataclasses.replace(HELD, tolerance=math.nan)


def test_a_status_other_than_held_never_passes() -> None:
    assert not dataclasses.replace(HELD, status="failed")
    assert not dataclasses.replace(HELD, status="not certified: too near")


def test_a_step_that_was_not_executed_says_why() -> None:
    parity = not_executed("engine", "logits", "no GPU")
    assert not parity
    assert str(parity) == "engine, logits: not executed: no GPU"


def test_as_json_is_strict_json() -> None:
    plain = json.loads(json.dumps(not_executed("engine", "logits", "no GPU").as_json(), allow_nan=False))
    assert plain["status"] == "not executed: no GPU"
    assert plain["error"] is None
    assert json.loads(json.dumps(HELD.as_json(), allow_nan=False))["worst"] == [3, 17]
