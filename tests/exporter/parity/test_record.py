import dataclasses
import json
import math

from plainconv.exporter.parity import Parity, not_executed

HELD = Parity("onnx", "logits", "max", 1e-6, 4e-6, 2.0, 1e-6, (3, 17), "large", None, 1, None, None, None, 1.0, "held")


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


def test_a_part_and_its_measure_are_named() -> None:
    part = dataclasses.replace(HELD, measure="rms", parts_axis=1, axis=1, index=4)
    assert "logits[:, 4]: held; RMS error 1.00e-06" in str(part)
    assert (part.place, HELD.place) == ("[:, 4]", "")


def test_integers_say_what_share_of_them_differs() -> None:
    text = str(dataclasses.replace(HELD, measure="agreement", error=0.0625, tolerance=0.05, status="failed"))
    assert "failed; 6.25% of the numbers differ, at most 5.00% may; worst at image 3 (large), element [17]" in text


def test_how_much_of_the_tolerance_is_used_is_infinite_for_no_number() -> None:
    assert HELD.used == 0.25
    assert dataclasses.replace(HELD, error=math.nan).used == math.inf
    assert not_executed("engine", "logits", "no GPU").used == math.inf
