"""The trained detector and segmenter: AP and mean IoU before and after, and what is in the precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from places import ASSETS

from plainconv.exporter.parity import in_batches, run_onnx
from plainconv.exporter.precision import Calibration, precision_of_name, typed_model
from plainconv.exporter.precision.run import run_of
from plainconv.models.checkpoints.published import load_checkpoint
from plainconv.models.training.scenes import read_scenes
from plainconv.models.training.scores import average_precision, detections, mean_iou
from plainconv.models.training.tasks import truth_of

EVALUATED, LOST = 100, 0.01
NAMES = ("digits_detector", "digits_segmenter")


def score(name: str, outputs: np.ndarray) -> float:
    """AP50 or mean IoU on the first of the held-out scenes."""
    scenes = read_scenes(ASSETS / "scenes_heldout.npz").rows(torch.arange(EVALUATED))
    if name == "digits_segmenter":
        return mean_iou(outputs.argmax(1), scenes.masks.numpy(), outputs.shape[1])
    return average_precision(detections(outputs), truth_of(scenes))


@pytest.fixture(scope="module")
def before() -> Callable[[str], float]:
    """The score of the eager network in float64."""
    known: dict[str, float] = {}

    def get(name: str) -> float:
        if name not in known:
            module = load_checkpoint(name, ASSETS / f"{name}.pth").module.double()
            images = read_scenes(ASSETS / "scenes_heldout.npz").images[:EVALUATED].double()
            with torch.inference_mode():
                known[name] = score(name, np.concatenate([module(x[None]).numpy() for x in images]))
        return known[name]

    return get


@pytest.mark.parametrize(("name", "least"), [("digits_detector", 0.97), ("digits_segmenter", 0.85)])
def test_scores_are_the_same_after_the_export(
    net_of: Callable[[str], Any], before: Callable[[str], float], name: str, least: float
) -> None:
    net = net_of(name)
    found = score(name, in_batches(run_onnx(net.path), (net.images[:EVALUATED],), 1)[0])
    assert found == pytest.approx(before(name), abs=2e-4) and found >= least


@pytest.mark.parametrize("name", NAMES)
def test_at_most_a_hundredth_is_lost_in_int8(
    net_of: Callable[[str], Any], before: Callable[[str], float], name: str
) -> None:
    """Given 30 scenes to calibrate on -> four layers of five in int8, and a score within 1 %."""
    net = net_of(name)
    calibration = Calibration({"input": net.images[-30:]})
    typed = typed_model(net.path, precision_of_name("int8"), net.reference, calibration=calibration)
    inside = sum(kind == "int8" for kind in typed.layers.values())
    assert inside >= 0.8 * len(typed.layers)
    found = score(name, in_batches(run_of(typed.model), (net.images[:EVALUATED],), 1)[0])
    assert found >= before(name) - LOST
