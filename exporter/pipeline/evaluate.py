"""How right a bundle is about labelled images: each of its graphs and engines that can run here."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Bundle, Postprocessing
from ..errors import EngineError, SourceError
from ..progress import track
from .labelled import IGNORED, Labelled, labelled, labelled_rows

if TYPE_CHECKING:
    from plainconv.engines import Runner
    from plainconv.engines.predict.answers import Answer
    from plainconv.engines.predict.predictor import Predictor

TOP = 5
_LEAST_SCORE, _MOST_BOXES = 0.001, 100
"""Of boxes that count, as COCO's own evaluation has it."""


@dataclass(frozen=True)
class Evaluation:
    """One graph or engine: its scores by name, from 0 to 1; or why it was not run."""

    file: str
    precision: str
    backend: str
    scores: dict[str, float]
    reason: str = ""


def evaluate_bundle(path: Path, images: Path, *, most: int | None = None) -> tuple[list[Evaluation], int]:
    """Evaluate all of it; also how many images it was.

    Raises EngineError where the bundle says nothing of images, SourceError where the images are labelled otherwise.
    """
    from plainconv.engines.predict.predictor import meaning_of, predictor_of

    bundle = Bundle.open(path)
    manifest = bundle.manifest
    several = len(manifest.inputs) > 1
    if several:
        wanted = meaning_of(manifest.postprocessing, manifest.outputs)
        data = labelled_rows(images, manifest.inputs, wanted.kind, most)
    else:
        predictor = predictor_of(manifest)
        wanted = predictor.postprocessing
        data = labelled(images, manifest.classes, most)
    if data.kind != wanted.kind:
        raise SourceError(f"--images {images} is to {data.kind}, the bundle's network does {wanted.kind}; give others")
    if data.kind == "detect":
        cocotools()  # before any work
        wanted = replace(wanted, score=_LEAST_SCORE, max=_MOST_BOXES)
    elif data.kind == "classify":
        wanted = replace(wanted, top=TOP)
    ask: Callable[[Runner, Any, Any], list[Answer]] = partial(_of_row, wanted, manifest.classes)
    if not several:
        ask = partial(_of_image, replace(predictor, postprocessing=wanted))
    score = {"classify": _of_classes, "segment": _of_masks, "detect": _of_boxes}[data.kind]
    found = []
    targets = list(_targets(bundle))
    with track(f"evaluating {manifest.name}", total=len(targets) * len(data.images), unit="images") as bar:
        for file, precision, backend, load in targets:
            try:
                with load() as runner:
                    answers = []
                    for image, truth in zip(data.images, data.truths, strict=True):
                        answers.append(ask(runner, image, truth))
                        bar.advance(1, file)
            except EngineError as error:
                found.append(Evaluation(file, precision, backend, {}, str(error)))
                continue
            found.append(Evaluation(file, precision, backend, score(answers, data, manifest.classes)))
    return found, len(data.images)


def cocotools() -> Any:
    """COCO's own evaluation. Raises SourceError where it is not installed."""
    try:
        from pycocotools import coco, cocoeval
    except ImportError as error:
        raise SourceError(f"boxes are evaluated by pycocotools ({error}); pip install 'plainconv[eval]'") from None
    return coco.COCO, cocoeval.COCOeval


def _targets(bundle: Bundle) -> Iterator[tuple[str, str, str, Callable[[], "Runner"]]]:
    from plainconv.engines import choice
    from plainconv.engines.loading import run_record
    from plainconv.engines.onnxruntime.runner import OnnxRuntimeRunner

    for file, precision in (
        ("model.onnx", "fp32"),
        *((graph.file, graph.precision) for graph in (*bundle.manifest.graphs, *bundle.manifest.cpu_graphs)),
    ):
        yield file, precision, "onnxruntime", partial(OnnxRuntimeRunner, bundle.file(file), precision=precision)
    for record in bundle.engines:

        def run(record: Any = record) -> "Runner":
            reason = choice.why_not_run(record)
            if reason is not None:
                raise EngineError(reason)
            return run_record(bundle, record)

        yield record.file, record.precision, record.backend, run


def _of_image(predictor: "Predictor", runner: "Runner", image: Any, _truth: Any) -> "list[Answer]":
    return predictor(runner, image)


def _of_row(
    wanted: Postprocessing, classes: Sequence[str], runner: "Runner", row: Mapping[str, np.ndarray], truth: Any
) -> "list[Answer]":
    """A row of each input, as often as the network takes at least; masks are as large as the truth's."""
    from plainconv.engines.predict.answers import answers_of
    from plainconv.engines.predict.geometry import Geometry

    feeds = {}
    for spec in runner.inputs:
        least = next((each[spec.name].min[0] for each in runner.profiles if spec.name in each), 1)
        feeds[spec.name] = np.repeat(
            row[spec.name][None], spec.shape[0] if isinstance(spec.shape[0], int) else least, 0
        )
    size = (truth.shape[0], truth.shape[1]) if np.ndim(truth) == 2 else (1, 1)
    return answers_of(runner(feeds), wanted, Geometry(size, size, (0, 0), size), classes)


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
    if classes and set(by_name) <= set(classes):
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
