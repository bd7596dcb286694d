"""Outputs → classes, masks and boxes, in pixels of the image."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plainconv.engines.predict.answers import Instance, answers_of, averaged, shares_of
from plainconv.engines.predict.draw import drawn
from plainconv.engines.predict.geometry import Geometry
from plainconv.engines.predict.masks import Pasted
from plainconv.engines.predict.nms import kept
from plainconv.exporter.bundle import Postprocessing
from plainconv.exporter.errors import EngineError
from plainconv.models.detection.regions import pasted

SAME = Geometry((10, 20), (10, 20), (0, 0), (10, 20))
BOXED = Geometry((20, 40), (10, 20), (5, 0), (20, 20))  # halved, five rows above
DETECT = Postprocessing("detect", form="dense", boxes="b", scores="s", score=0.3, iou=0.5, max=10)


def test_classes_are_softmax_or_shares_already():
    logits = np.array([[0.0, 3.0, 1.0], [9, 9, 9]], np.float32)
    found = answers_of({"y": logits}, Postprocessing("classify", output="y", top=2), SAME, ["a", "b"])
    exact = np.exp(logits[0].astype(float)) / np.exp(logits[0].astype(float)).sum()
    assert [(each.label, each.number) for each in found] == [("b", 1), ("2", 2)]
    assert np.allclose([each.score for each in found], exact[[1, 2]])
    assert np.array_equal(shares_of(np.array([0.25, 0.75])), [0.25, 0.75])


@pytest.mark.parametrize(
    ("outputs", "wanted"),
    [
        ({"y": np.array([[0, np.nan]])}, Postprocessing("classify", output="y")),
        ({"y": np.full((1, 3, 2, 2), np.inf)}, Postprocessing("segment", output="y")),
        ({"b": np.full((1, 1, 4), np.nan), "s": np.array([[[0.9]]])}, DETECT),
        ({"b": np.zeros((1, 1, 4)), "s": np.array([[[np.nan, 0.9]]])}, DETECT),
        ({"y": np.full((1, 6, 3), np.nan)}, Postprocessing("detect", form="rows", boxes="y", scores="y")),
    ],
)
def test_what_is_no_number_is_told(outputs, wanted):
    with pytest.raises(EngineError, match="have values that are no numbers"):
        answers_of(outputs, wanted, SAME, ())


def test_a_box_that_does_not_count_may_be_anything():
    """Given NaN boxes behind the count, or below the least score -> nobody looks at them."""
    boxes = np.array([[[0, 0, 5, 5], [np.nan] * 4]], np.float32)
    found = answers_of({"b": boxes, "s": np.array([[[0.9], [0.1]]], np.float32)}, DETECT, SAME, ())
    assert [each.xyxy for each in found] == [(0, 0, 5, 5)]
    final = Postprocessing("detect", form="final", boxes="b", scores="s", labels="l", count="n", score=0.3)
    outputs = {"b": boxes, "s": np.array([[0.9, np.nan]]), "l": np.array([[1, -1]]), "n": np.array([1])}
    assert [each.number for each in answers_of(outputs, final, SAME, ())] == [1]


def test_the_three_forms_are_one_answer():
    """Given the same boxes as rows, dense and final -> the same answer, the letterbox undone and clipped."""
    boxes = np.array([[0, 5, 10, 10], [1, 5, 10, 10], [2, 5, 30, 15], [0, 0, 1, 1]], float)
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.7], [0.2, 0.1]])
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.concatenate([centre, size, scores], 1).T[None]
    dense = answers_of({"b": boxes[None], "s": scores[None]}, DETECT, BOXED, ["cat", "dog"])
    rowed = Postprocessing(
        "detect", form="rows", coordinates="cxcywh", boxes="y", scores="y", score=0.3, iou=0.5, max=10
    )
    final = Postprocessing("detect", form="final", boxes="b", scores="s", labels="l", score=0.3, max=10)
    done = {"b": boxes[None, [0, 2]], "s": np.array([[0.9, 0.7]]), "l": np.array([[0, 1]])}
    assert [each.label for each in dense] == ["cat", "dog"]
    assert [each.xyxy for each in dense] == [(0, 0, 20, 10), (4, 0, 40, 20)]
    assert dense == answers_of({"y": rows}, rowed, BOXED, ["cat", "dog"])
    corners = np.concatenate([boxes, scores], 1).T[None]
    assert dense == answers_of({"y": corners}, replace(rowed, coordinates="xyxy"), BOXED, ["cat", "dog"])
    assert dense == answers_of(done, final, BOXED, ["cat", "dog"])


def brute(boxes, labels, iou, most):
    found = []
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        clash = False
        for j in found:
            across = min(box[2], boxes[j][2]) - max(box[0], boxes[j][0])
            down = min(box[3], boxes[j][3]) - max(box[1], boxes[j][1])
            common = max(0, across) * max(0, down)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, boxes[j])]
            clash |= labels[j] == label and common > iou * (sum(areas) - common)
        if not clash:
            found.append(i)
    return found[:most]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 70))
def test_suppression_is_the_plain_rule(seed, count, iou, most):
    draw = np.random.default_rng(seed)
    low = draw.integers(0, 20, (count, 2))
    boxes = np.concatenate([low, low + draw.integers(0, 15, (count, 2))], 1).astype(float)
    labels = draw.integers(0, 3, count)
    assert kept(boxes, labels, iou, most).tolist() == brute(boxes, labels, iou, most)


def test_masks_lie_on_the_image():
    """Given scores at half the input's size, letterboxed -> each pixel of the image has the class of its place."""
    scores = np.zeros((1, 3, 10, 10), np.float32)
    scores[0, 1, :, :5] = 4  # the left half
    scores[0, 2, 5:] = 9  # over it, the lower half; without the rows above and below the image
    found = answers_of({"y": scores}, Postprocessing("segment", output="y"), BOXED, ["x", "left", "low"])
    first, second = found[0], next(each for each in found if each.label == "left")
    assert (first.label, first.mask.shape) == ("low", (20, 40))
    assert np.array_equal(np.flatnonzero(first.mask.any(1)), np.arange(10, 20))
    assert second.mask[:10, :20].all() and not second.mask[:, 20:].any()
    assert 0.9 < first.score < 1


def test_masks_of_one_channel_and_of_numbers():
    segment = Postprocessing("segment", output="y")
    one = np.where(np.arange(20) < 5, 1.0, -1.0) * np.ones((1, 1, 10, 1))
    found = answers_of({"y": one}, segment, SAME, ["thing"])
    assert [each.label for each in found] == ["thing"] and found[0].mask[:, :5].all() and found[0].mask.sum() == 50
    numbers = np.arange(2).repeat(10)[None, None] * np.ones((1, 10, 1), np.int64)
    assert [each.number for each in answers_of({"y": numbers}, segment, SAME, ())] == [0, 1]


def test_a_crop_leaves_pixels_of_no_class():
    cropped = Geometry((10, 20), (10, 20), (0, -5), (10, 10))
    found = answers_of({"y": np.zeros((1, 10, 10), np.int64)}, Postprocessing("segment", output="y"), cropped, ())
    assert np.array_equal(np.flatnonzero(found[0].mask.any(0)), np.arange(5, 15))


def test_a_mask_as_json_is_runs_by_column():
    mask = np.array([[[1, 0, 0], [1, 0, 1]]])
    where = Geometry((2, 3), (2, 3), (0, 0), (2, 3))
    zero, one = answers_of({"y": mask}, Postprocessing("segment", output="y"), where, ())
    assert zero.as_json()["mask"] == {"size": [2, 3], "counts": [2, 3, 1]}
    assert one.as_json()["mask"] == {"size": [2, 3], "counts": [0, 2, 3, 1]}
    assert json.loads(json.dumps(one.as_json()))["score"] == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_pasted_as_the_network_itself_does(seed):
    """Given masks of random boxes -> where `models.detection` puts them in float64, but for values next to one half."""
    rng = np.random.default_rng(seed)
    height, width, corners = 37, 53, rng.uniform(-9, 60, (5, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)[None]
    masks = rng.uniform(size=(1, 5, 7, 6))
    wanted = Postprocessing("detect", form="final", boxes="b", scores="s", labels="l", masks="m", score=0.1)
    outputs = {"b": boxes, "s": np.linspace(0.9, 0.5, 5)[None], "l": np.zeros((1, 5), np.int64), "m": masks}
    same = Geometry((height, width), (height, width), (0, 0), (height, width))
    found = answers_of(outputs, wanted, same, ())
    at = torch.tensor([[each.xyxy for each in found]], dtype=torch.float64)
    truth = pasted(torch.from_numpy(masks), at, height, width)[0].numpy()
    near = pasted(torch.from_numpy(masks) + 1e-12, at, height, width)[0].numpy()
    assert len(found) == 5 and any(each.mask.any() for each in found)
    for each, mask, other in zip(found, truth, near, strict=True):
        assert np.array_equal(each.mask, mask) or (each.mask != mask).sum() <= (mask != other).sum()
        runs = np.repeat(np.arange(len(each.as_json()["mask"]["counts"])) % 2, each.as_json()["mask"]["counts"])
        assert np.array_equal(runs.reshape(width, height).T, each.mask)


def test_masks_of_the_input_are_looked_up_as_pixels_are():
    """Given bool masks of the input -> the image's pixels at their places; none where the input lacks them."""
    mask = np.zeros((1, 1, 20, 20), bool)
    mask[0, 0, :10] = True  # of a letterbox of five rows above, ten of the image, five below
    wanted = Postprocessing("detect", form="final", boxes="b", scores="s", labels="l", masks="m")
    outputs = {"b": np.array([[[0, 0, 9, 9]]]), "s": np.array([[0.9]]), "l": np.array([[0]]), "m": mask}
    (found,) = answers_of(outputs, wanted, BOXED, ())
    assert found.mask.shape == (20, 40) and found.mask[:10].all() and not found.mask[10:].any()


def test_crops_are_averaged_in_their_order():
    wanted = Postprocessing("classify", output="y", top=1)
    rows = np.array([[1, 0], [0, 3], [9, 9]], np.float32)
    assert np.array_equal(averaged({"y": rows, "z": rows}, wanted, 2)["y"], [[0.5, 1.5]])


def test_masks_of_boxes_are_drawn():
    """Given a mask of the upper half -> its pixels are tinted, others are not."""
    pasted_there = Pasted(np.arange(20)[:, None] < np.full(20, 10), (0, 0, 9, 9), BOXED)
    picture = np.asarray(
        drawn(np.full((20, 40, 3), 255, np.uint8), [Instance("a", 3, 0.9, (0, 0, 9, 9), pasted_there)])
    )
    assert (picture[9, 35] < 255).any() and (picture[15:, 35] == 255).all()
