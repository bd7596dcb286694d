"""Labelled images that every step is counted on: `--eval-data`.

As the network takes them, in an .npz: `images` (or an array for each input by its name), and `labels` [n], `masks`
[n, H, W], or `boxes` [n, K, 4], x1 y1 x2 y2 in pixels of the input, with `labels` [n, K], −1 for none; what the outputs
mean says which. Or as `exporter eval` takes them, for networks that say how an image becomes their input.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Manifest, Postprocessing, Preprocessing, TensorSpec, default_of
from ..bundle.postprocessing import postprocessing_given
from ..errors import EngineError, SourceError
from ..parity import EvalData, Reference, Run, read_eval_data
from ..parity.accuracy import Rights, Scores, arrays_of_npz, check_images
from ..parity.inputs import batch_of, has_batch
from ..source.images import classes_given
from ..source.network import Network
from .labelled import Labelled, labelled
from .scores import scores_of, to_score
from .steps import Judges

if TYPE_CHECKING:
    from plainconv.engines.predict.answers import Answer
    from plainconv.engines.predict.geometry import Geometry

MOST_HELD, MOST_BYTES = 256, 2**30
"""Of images that come from files, those that lower precisions are held to; what may be kept of them."""
_NONE = -1


@dataclass(frozen=True)
class Meaning:
    """What is known of a network: its inputs, of one image each, those without a batch axis, and what outputs mean."""

    inputs: Sequence[TensorSpec]
    shapes: Mapping[str, tuple[int, ...]]
    whole: Collection[str]
    outputs: Sequence[TensorSpec]
    preprocessing: Preprocessing | None
    postprocessing: Postprocessing | None
    classes: tuple[str, ...]

    @property
    def wanted(self) -> Postprocessing:
        """What the outputs mean; `none` where nobody knows."""
        return self.postprocessing or default_of(self.outputs) or Postprocessing("none")


@dataclass(frozen=True)
class Judged:
    """Images, of each what is true, and how the outputs are read. `row` gives an image's inputs in their order."""

    data: Labelled
    row: "Callable[[int], tuple[list[np.ndarray], Geometry]]"
    outputs: tuple[str, ...]
    wanted: Postprocessing
    classes: tuple[str, ...]

    def of_inputs(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The first ones by the names of the network's inputs."""
        first = [self.row(0)[0]]
        count = min(len(self.data.images), MOST_HELD, max(1, MOST_BYTES // max(1, _bytes_of(first[0]))))
        first += [self.row(i)[0] for i in range(1, count)]
        return {name: np.stack(rows) for name, rows in zip(names, zip(*first, strict=True), strict=True)}

    def count(self, run: Run, batch: int) -> Rights | Scores:
        """What `run`, called with `batch` images at a time, says of them; what is no number says nothing."""
        from plainconv.engines.predict.answers import answers_of

        answers: list[list[Answer]] = []
        count = len(self.data.images)
        for start in range(0, count, batch):
            rows = [self.row(min(i, count - 1)) for i in range(start, start + batch)]
            outputs = run(*(np.stack(x) for x in zip(*(inputs for inputs, _ in rows), strict=True)))
            named = dict(zip(self.outputs, outputs, strict=True))
            for k in range(min(batch, count - start)):
                try:
                    answers.append(answers_of(named, self.wanted, rows[k][1], self.classes, k))
                except EngineError:
                    answers.append([])
        if self.data.kind == "classify":
            pairs = zip(answers, self.data.truths, strict=True)
            return Rights(np.array([bool(one) and one[0].number == truth for one, truth in pairs]))
        return Scores(scores_of(answers, self.data, self.classes), count)


def judges_of(
    network: Network, path: Path | None, postprocess: str | None, classes: str | Path | Sequence[str] | None
) -> Judges | None:
    """What is at `path` for a network that is about to be exported, whose outputs mean `postprocess`; None of None.

    Raises SourceError as `read_judges` does.
    """
    if path is None:
        return None
    batch, outputs = batch_of(x.shape for x in network.examples), network.output_specs()
    known = Meaning(
        [TensorSpec(name, str(x.dtype).removeprefix("torch."), tuple(x.shape)) for name, x in network.inputs.items()],
        {name: tuple(x.shape[1:]) for name, x in network.inputs.items()},
        [name for name, x in network.inputs.items() if not has_batch(x.shape, batch)],
        outputs,
        network.preprocessing,
        postprocessing_given(postprocess, outputs),
        classes_given(classes) or network.classes,
    )
    return read_judges(path, known)


def judges_of_bundle(manifest: Manifest, reference: Reference, path: Path | None) -> Judges | None:
    """The same for a bundle."""
    if path is None:
        return None
    known = Meaning(
        manifest.inputs,
        reference.shapes,
        reference.whole,
        manifest.outputs,
        manifest.preprocessing,
        manifest.postprocessing,
        manifest.classes,
    )
    return read_judges(path, known)


def read_judges(path: Path, known: Meaning) -> EvalData | Judged:
    """What is at `path`, for this network.

    Raises SourceError, in one line, where it is none of what the module names, or does not fit the network.
    """
    kind = known.wanted.kind
    if path.suffix == ".npz" and not _are_pixels(path, known):
        if kind not in ("detect", "segment"):
            return read_eval_data(path, known.shapes, known.whole)
        return _of_arrays(path, known)
    if known.preprocessing is None:
        wanted = "give --preprocessing, or an .npz of what it takes"
        raise SourceError(f"--eval-data {path}: the network says not how an image becomes its input; {wanted}")
    data = labelled(path, known.classes)
    if data.kind != kind:
        raise SourceError(f"--eval-data {path} is to {data.kind}, the network does {kind}; give others")
    row = _prepared(data.images, known)
    if len(data.images) * _bytes_of(row(0)[0]) <= MOST_BYTES:
        row = cache(row)  # else each step decodes them again
    return _judged(data, known, row)


def _judged(data: Labelled, known: Meaning, row: Any) -> Judged:
    return Judged(data, row, tuple(spec.name for spec in known.outputs), to_score(known.wanted), known.classes)


def _are_pixels(path: Path, known: Meaning) -> bool:
    """Whether an .npz holds images as a decoder gives them, which are not what the network takes."""
    if len(known.inputs) != 1 or known.preprocessing is None:
        return False
    try:
        images = arrays_of_npz(path, ("images",))["images"]
    except SourceError:
        return False
    return images.dtype == np.uint8 and images.shape[1:] != known.shapes.get(known.inputs[0].name)


def _prepared(images: Sequence[Any], known: Meaning) -> "Callable[[int], tuple[list[np.ndarray], Geometry]]":
    from plainconv.engines.predict.predictor import predictor

    spec = known.inputs[0]
    at = TensorSpec(spec.name, spec.dtype, (1, *known.shapes[spec.name]))
    assert known.preprocessing is not None
    one = replace(known.preprocessing, crops=1)  # of ten the middle: a step is judged, not the average of ten
    prepare = predictor(one, known.wanted, known.classes, [at], known.outputs).prepare

    def row(i: int) -> "tuple[list[np.ndarray], Geometry]":
        found = prepare(images[i])
        return [_single(x[0]) for x in found.inputs.values()], found.where

    return row


def _of_arrays(path: Path, known: Meaning) -> Judged:
    """Images as the network takes them, with boxes or masks."""
    if known.whole:
        raise SourceError(
            f"--eval-data counts images, and the input {min(known.whole)} has no batch axis; leave it out"
        )
    names = list(known.shapes)
    keys = ["images"] if len(names) == 1 else names
    is_boxes = known.wanted.kind == "detect"
    held = arrays_of_npz(path, None)
    truth = ("boxes", "labels") if is_boxes else ("labels" if "masks" not in held else "masks",)
    missing = [key for key in (*keys, *truth) if key not in held]
    if missing:
        kinds = "boxes [n, K, 4] and labels [n, K]" if is_boxes else "masks [n, H, W]"
        raise SourceError(f"{path.name}: holds {sorted(held)}, lacks {missing[0]}; wants {', '.join(keys)}, {kinds}")
    for key, name in zip(keys, names, strict=True):
        check_images(path, held[key], known.shapes[name], key)
    arrays = [held[key] for key in keys]
    count, sides = len(arrays[0]), _sides(known)
    if any(len(x) != count for x in (*arrays, *(held[key] for key in truth))):
        found = ", ".join(f"{key} {len(held[key])}" for key in (*keys, *truth))
        raise SourceError(f"{path.name}: rows are {found}; wants one of each")
    of = partial(_boxes_of, known=known) if is_boxes else _masks_of
    return _judged(of(path, [held[key] for key in truth], sides), known, partial(_row, arrays, sides))


def _bytes_of(inputs: Sequence[np.ndarray]) -> int:
    return sum(x.nbytes for x in inputs)


def _row(arrays: Sequence[np.ndarray], sides: tuple[int, int], i: int) -> "tuple[list[np.ndarray], Geometry]":
    from plainconv.engines.predict.geometry import Geometry

    return [_single(x[i]) for x in arrays], Geometry(sides, sides, (0, 0), sides)


def _single(x: np.ndarray) -> np.ndarray:
    """As the reference keeps inputs: real numbers in float32."""
    return x if x.dtype.kind in "biu" else x.astype(np.float32)


def _sides(known: Meaning) -> tuple[int, int]:
    """Height and width of the first input's images."""
    shape = next(iter(known.shapes.values()))
    if len(shape) != 3:
        raise SourceError(f"--eval-data: boxes and masks are of images, the network takes {list(shape)}; leave it out")
    is_last = known.preprocessing is not None and known.preprocessing.layout == "nhwc"
    return (shape[0], shape[1]) if is_last else (shape[1], shape[2])


def _masks_of(path: Path, truth: Sequence[np.ndarray], sides: tuple[int, int]) -> Labelled:
    (masks,) = truth
    if masks.shape[1:] != sides or masks.dtype.kind not in "iu":
        raise SourceError(
            f"{path.name}: masks are {masks.dtype} {list(masks.shape)}, want whole numbers [n, {sides[0]}, {sides[1]}]"
        )
    return Labelled("segment", range(len(masks)), list(masks.astype(np.int64)))


def _boxes_of(path: Path, truth: Sequence[np.ndarray], sides: tuple[int, int], *, known: Meaning) -> Labelled:
    boxes, labels = truth
    fits = boxes.ndim == 3 and boxes.shape[2] == 4 and labels.shape == boxes.shape[:2]
    if not fits or labels.dtype.kind not in "iu" or boxes.dtype.kind not in "fiu" or not np.isfinite(boxes).all():
        found = f"{boxes.dtype} {list(boxes.shape)} and {labels.dtype} {list(labels.shape)}"
        raise SourceError(f"{path.name}: boxes and labels are {found}, want numbers [n, K, 4] and whole ones [n, K]")
    most = max(int(labels.max(initial=0)) + 1, len(known.classes))
    annotations: list[dict[str, Any]] = []
    for i, k in zip(*np.nonzero(labels > _NONE), strict=True):
        left, top, right, bottom = map(float, boxes[i, k])
        of = {"id": len(annotations) + 1, "image_id": int(i), "category_id": int(labels[i, k])}
        annotations.append({**of, "bbox": [left, top, right - left, bottom - top]})
    images = [{"id": i, "height": sides[0], "width": sides[1]} for i in range(len(boxes))]
    categories = [{"id": k, "name": known.classes[k] if k < len(known.classes) else str(k)} for k in range(most)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    return Labelled("detect", range(len(boxes)), list(range(len(boxes))), coco)
