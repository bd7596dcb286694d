"""What answers about labelled images are worth: top-1 and top-5, mean IoU, COCO's average precision; from 0 to 1."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Postprocessing
from ..errors import SourceError
from .labelled import IGNORED, Labelled

if TYPE_CHECKING:
    from plainconv.engines.predict.answers import Answer

TOP = 5
_LEAST_SCORE, _MOST_BOXES = 0.001, 100
"""Of boxes that count, as COCO's own evaluation has it."""


def to_score(wanted: Postprocessing) -> Postprocessing:
    """How the outputs are read where answers are to be scored: more of them than are shown.

    Raises SourceError where what scores them is not installed.
    """
    if wanted.kind == "detect":
        cocotools()
        return replace(wanted, score=min(_LEAST_SCORE, wanted.score), max=_MOST_BOXES)
    return replace(wanted, top=TOP) if wanted.kind == "classify" else wanted


def scores_of(answers: "Sequence[list[Answer]]", data: Labelled, classes: Sequence[str]) -> dict[str, float]:
    """By name, the one that counts first: of one answer an image, and what is true of each."""
    return {"classify": _of_classes, "segment": _of_masks, "detect": _of_boxes}[data.kind](answers, data, classes)


def cocotools() -> Any:
    """COCO's own evaluation. Raises SourceError where it is not installed."""
    try:
        from pycocotools import coco, cocoeval
    except ImportError as error:
        raise SourceError(f"boxes are evaluated by pycocotools ({error}); pip install 'plainconv[eval]'") from None
    return coco.COCO, cocoeval.COCOeval


def _of_classes(answers: "Sequence[list[Answer]]", data: Labelled, classes: Sequence[str]) -> dict[str, float]:
    ranks = [[each.number for each in one].index(truth) if truth in [e.number for e in one] else TOP
             for one, truth in zip(answers, data.truths, strict=True)]  # fmt: skip
    return {f"top-{k}": float(np.mean([rank < k for rank in ranks])) for k in (1, TOP)}


def _of_masks(answers: "Sequence[list[Answer]]", data: Labelled, classes: Sequence[str]) -> dict[str, float]:
    """Mean over the classes there are of |A ∩ B| / |A ∪ B|, over all images; and the share of pixels that are right."""
    both: dict[int, int] = {}
    either: dict[int, int] = {}
    right = total = 0
    for one, truth in zip(answers, data.truths, strict=True):
        counts = truth != IGNORED
        if one and one[0].mask.shape != truth.shape:  # type: ignore[union-attr]
            found = " and ".join("×".join(map(str, each)) for each in (truth.shape, one[0].mask.shape))  # type: ignore[union-attr]
            raise SourceError(f"a mask and its image are {found} (height×width); give masks of the images' sizes")
        masks = {each.number: each.mask & counts for each in one}  # type: ignore[union-attr]
        for number in {*masks, *map(int, np.unique(truth[counts]))}:
            mask, wanted = masks.get(number, np.zeros(truth.shape, bool)), (truth == number) & counts
            common = int((mask & wanted).sum())
            both[number] = both.get(number, 0) + common
            either[number] = either.get(number, 0) + int((mask | wanted).sum())
            right += common
        total += int(counts.sum())
    shares = [both[number] / either[number] for number in either if either[number]]
    return {"mIoU": float(np.mean(shares)) if shares else 0.0, "pixels": right / max(1, total)}


def _of_boxes(answers: "Sequence[list[Answer]]", data: Labelled, classes: Sequence[str]) -> dict[str, float]:
    """COCO's AP (IoU .5 to .95) and AP50; classes by name where the bundle names all, else in the order of the ids."""
    coco_of, evaluation_of = cocotools()
    categories = sorted(data.coco["categories"], key=lambda each: each["id"])
    by_name = {each["name"]: each["id"] for each in categories}
    numbers = [each["id"] for each in categories]
    if classes and len(by_name) == len(categories) and set(by_name) <= set(classes):
        numbers = [by_name.get(name, -1) for name in classes]
    results = [
        {
            "image_id": image,
            "category_id": numbers[each.number] if each.number < len(numbers) else -1,
            "bbox": [*each.xyxy[:2], each.xyxy[2] - each.xyxy[0], each.xyxy[3] - each.xyxy[1]],  # type: ignore[union-attr]
            "score": each.score,
        }
        for one, image in zip(answers, data.truths, strict=True)
        for each in one
    ]
    if not results:
        return {"AP": 0.0, "AP50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_of()
        truth.dataset = {**data.coco, "annotations": [_whole(each) for each in data.coco["annotations"]]}
        truth.createIndex()
        evaluation = evaluation_of(truth, truth.loadRes(results), "bbox")
        evaluation.params.imgIds = list(data.truths)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"AP": max(0.0, float(evaluation.stats[0])), "AP50": max(0.0, float(evaluation.stats[1]))}


def _whole(annotation: dict[str, Any]) -> dict[str, Any]:
    """With what COCO's evaluation asks for, where a file leaves it out."""
    width, height = annotation["bbox"][2:]
    return {"iscrowd": 0, "area": width * height, "id": id(annotation), **annotation}
