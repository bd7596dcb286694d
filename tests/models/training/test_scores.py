"""AP50 and mean IoU: by hand, against pycocotools where it is installed, and what breaks them."""

from typing import Any

import numpy as np
import pytest

from plainconv.models.training.scores import Boxes, average_precision, detections, iou, mean_iou

SQUARE = [0.0, 0.0, 10.0, 10.0]


def boxes(*found: tuple[list[float], int, float]) -> Boxes:
    return Boxes(
        np.array([box for box, _, _ in found]).reshape(-1, 4),
        np.array([label for _, label, _ in found], int),
        np.array([score for _, _, score in found]),
    )


def test_iou_by_hand() -> None:
    one = np.array([SQUARE, [5, 0, 15, 10]], float)
    np.testing.assert_allclose(iou(one, one), [[1, 1 / 3], [1 / 3, 1]])
    assert iou(one, np.array([[20, 20, 30, 30.0]])).tolist() == [[0], [0]]


def test_average_precision_by_hand() -> None:
    """Given two digits of a class, one found first, one false alarm second → precision 1 up to recall ½: 51 of 101."""
    truth = [boxes((SQUARE, 3, 1), ([50, 50, 60, 60], 3, 1))]
    found = [boxes((SQUARE, 3, 0.9), ([20, 20, 30, 30], 3, 0.8))]
    assert average_precision(found, truth) == pytest.approx(51 / 101)
    assert average_precision(truth, truth) == 1.0
    assert average_precision([boxes((SQUARE, 4, 0.9))], truth) == 0.0
    assert average_precision([boxes()], truth) == 0.0


def test_a_second_box_on_a_digit_is_a_false_alarm() -> None:
    truth = [boxes((SQUARE, 0, 1), ([50, 50, 60, 60], 0, 1))]
    twice = [boxes((SQUARE, 0, 0.9), (SQUARE, 0, 0.8), ([50, 50, 60, 60], 0, 0.7))]
    assert average_precision(twice, truth) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_of_boxes_that_overlap_the_best_of_each_class_stays() -> None:
    decoded = np.zeros((1, 6, 4))
    decoded[0, :4] = np.array([SQUARE, [1, 0, 11, 10], [40, 40, 50, 50], [0, 0, 10, 10]]).T
    decoded[0, 4] = [0.6, 0.9, 0.3, 0.04]
    decoded[0, 5] = [0.5, 0.0, 0.0, 0.0]
    (found,) = detections(decoded)
    assert found.labels.tolist() == [0, 1, 0] and found.scores.tolist() == [0.9, 0.5, 0.3]
    assert found.boxes[0].tolist() == [1, 0, 11, 10]


def test_mean_iou_by_hand() -> None:
    truth = np.array([[[0, 0, 1, 1]]], np.uint8)
    assert mean_iou(np.array([[[0, 0, 1, 1]]]), truth, 3) == 1.0
    assert mean_iou(np.array([[[0, 1, 1, 1]]]), truth, 3) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert mean_iou(np.array([[[0, 0, 1, 2]]]), truth, 3) == pytest.approx((1 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_coco_s(seed: int, capsys: Any) -> None:
    """Given random detections about random truth → what pycocotools counts at IoU ½."""
    coco_module = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    draw = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(12):
        low = draw.uniform(0, 60, (4, 2))
        right = np.concatenate([low, low + draw.uniform(10, 30, (4, 2))], 1)
        truth.append(Boxes(right, draw.integers(0, 3, 4), np.ones(4)))
        near = right[draw.integers(0, 4, 7)] + draw.normal(0, 3, (7, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)  # COCO counts no box of negative area
        found.append(Boxes(near, draw.integers(0, 3, 7), draw.uniform(0, 1, 7)))
    coco = coco_module.COCO()

    def rows(each: list[Boxes]) -> list[dict[str, Any]]:
        return [
            {
                "image_id": i + 1, "category_id": int(label) + 1, "score": float(score), "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
            }
            for i, image in enumerate(each)
            for (x1, y1, x2, y2), label, score in zip(image.boxes.tolist(), image.labels, image.scores, strict=True)
        ]  # fmt: skip

    coco.dataset = {
        "info": {},
        "images": [{"id": i + 1} for i in range(12)],
        "categories": [{"id": k + 1} for k in range(3)],
        "annotations": [{**row, "id": i + 1} for i, row in enumerate(rows(truth))],
    }
    coco.createIndex()
    judge = evaluation.COCOeval(coco, coco.loadRes(rows(found)), "bbox")
    judge.params.iouThrs = np.array([0.5])
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][0, :, :, 0, -1]
    assert average_precision(found, truth) == pytest.approx(precision.mean(), abs=1e-9)
