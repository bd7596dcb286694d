"""How right a bundle is about labelled images: each of its graphs and engines that can run here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle
from ..errors import EngineError, SourceError
from ..progress import track
from .labelled import labelled
from .scores import scores_of, to_score

if TYPE_CHECKING:
    from plainconv.engines import Runner


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
    from plainconv.engines.predict.predictor import predictor_of

    bundle = Bundle.open(path)
    predictor = predictor_of(bundle.manifest)
    data = labelled(images, bundle.manifest.classes, most)
    wanted = predictor.postprocessing
    if data.kind != wanted.kind:
        raise SourceError(f"--images {images} is to {data.kind}, the bundle's network does {wanted.kind}; give others")
    predictor = replace(predictor, postprocessing=to_score(wanted))
    found = []
    targets = list(_targets(bundle))
    with track(f"evaluating {bundle.manifest.name}", total=len(targets) * len(data.images), unit="images") as bar:
        for file, precision, backend, load in targets:
            try:
                with load() as runner:
                    answers = []
                    for image in data.images:
                        answers.append(predictor(runner, image))
                        bar.advance(1, file)
            except EngineError as error:
                found.append(Evaluation(file, precision, backend, {}, str(error)))
                continue
            scores = scores_of(answers, data, bundle.manifest.classes)
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
