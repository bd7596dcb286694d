"""How right a bundle is about labelled images: each of its graphs and engines that can run here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Bundle, Postprocessing
from ..errors import EngineError, SourceError
from ..progress import track
from .labelled import labelled, labelled_rows
from .scores import scores_of, to_score

if TYPE_CHECKING:
    from plainconv.engines import Runner
    from plainconv.engines.predict.answers import Answer
    from plainconv.engines.predict.predictor import Predictor


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
    wanted = to_score(wanted)
    ask: Callable[[Runner, Any, Any], list[Answer]] = partial(_of_row, wanted, manifest.classes)
    if not several:
        ask = partial(_of_image, replace(predictor, postprocessing=wanted))
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
            scores = scores_of(answers, data, manifest.classes)
            found.append(Evaluation(file, precision, backend, scores))
    return found, len(data.images)


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
    from plainconv.engines.predict.predictor import rows_taken

    feeds = {spec.name: np.repeat(row[spec.name][None], rows_taken(spec, runner.profiles), 0) for spec in runner.inputs}
    size = (truth.shape[0], truth.shape[1]) if np.ndim(truth) == 2 else (1, 1)
    return answers_of(runner(feeds), wanted, Geometry(size, size, (0, 0), size), classes)
