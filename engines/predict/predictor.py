"""Image in, answer out: around whatever runs the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from plainconv.exporter.bundle import Manifest, Postprocessing, Preprocessing, TensorSpec, default_of
from plainconv.exporter.bundle.postprocessing import not_averaged
from plainconv.exporter.errors import EngineError

from ..runner import Array, Profiles
from .answers import Answer, answers_of, averaged
from .geometry import Geometry, geometry_of
from .images import MOST_PIXELS, opened, upright
from .pixels import input_of


class Runs(Protocol):
    """A runner, or what stands for one."""

    profiles: Profiles

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once."""


@dataclass(frozen=True)
class Prepared:
    """An image as the network takes it: its inputs by name, where its pixels lie in them, and how that was made."""

    inputs: dict[str, Array]
    where: Geometry
    said: str


@dataclass(frozen=True)
class Predictor:
    """What a bundle says of images. Make it by `predictor_of`."""

    preprocessing: Preprocessing
    postprocessing: Postprocessing
    classes: tuple[str, ...]
    spec: TensorSpec

    def __call__(self, runner: Runs, image: Any) -> list[Answer]:
        """What the network says of an image: a path, bytes, a Pillow image, or uint8 [H, W, 3].

        Raises ImageError for what is no image, EngineError where the network fails.
        """
        prepared = self.prepare(image, runner.profiles)
        return self.answer(runner(prepared.inputs), prepared.where)

    def prepare(self, image: Any, profiles: Profiles = (), most: int = MOST_PIXELS) -> Prepared:
        """The inputs that an image makes: a row a crop, the last as often as the network takes rows at least."""
        wanted = self.preprocessing
        plain, steps = upright(opened(image, most), wanted.color)
        height, width = (self.spec.shape[axis] for axis in ((2, 3) if wanted.layout == "nchw" else (1, 2)))
        given = (height if isinstance(height, int) else None, width if isinstance(width, int) else None)
        where = geometry_of(wanted, (plain.height, plain.width), given)
        x = input_of(plain, wanted, where)
        rows = rows_taken(self.spec, profiles, least=len(x))
        if where.resized != where.image:
            steps.append(f"resized to {where.resized[1]}×{where.resized[0]}")
        if where.input != where.resized:
            how = "letterboxed to" if wanted.letterbox else "its middle" if len(x) == 1 else f"{len(x)} crops of"
            steps.append(f"{how} {where.input[1]}×{where.input[0]}")
        inputs = {self.spec.name: x[np.minimum(np.arange(rows), len(x) - 1)]}
        return Prepared(inputs, where, ", ".join(steps))

    def answer(self, outputs: Mapping[str, Any], where: Geometry) -> list[Answer]:
        """What the outputs say of the image in their first row, or on average of its crops, the best first."""
        if self.preprocessing.crops > 1:
            outputs = averaged(outputs, self.postprocessing, self.preprocessing.crops)
        return answers_of(outputs, self.postprocessing, where, self.classes)


def rows_taken(spec: TensorSpec, profiles: Profiles, *, least: int = 1) -> int:
    """How many rows to give an input: as many as it takes; where that is open, what its profile asks for or `least`."""
    if isinstance(spec.shape[0], int):
        return spec.shape[0]
    return max(least, next((each[spec.name].min[0] for each in profiles if spec.name in each), 1))


def predictor_of(manifest: Manifest) -> Predictor:
    """What a bundle's manifest says of images.

    Raises EngineError, in one line, where it does not say how one becomes its input, or what its outputs mean.
    """
    return predictor(
        manifest.preprocessing, manifest.postprocessing, manifest.classes, manifest.inputs, manifest.outputs
    )


def predictor(
    preprocessing: Preprocessing | None,
    postprocessing: Postprocessing | None,
    classes: tuple[str, ...],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Predictor:
    """The same of its sections."""
    if preprocessing is None:
        raise EngineError("the bundle says not how an image becomes its input; export it with --preprocessing")
    wanted = meaning_of(postprocessing, outputs)
    if problem := not_averaged(preprocessing.crops, wanted):
        raise EngineError(f"{problem}; export it with another --preprocessing")
    return Predictor(preprocessing, wanted, classes, inputs[0])


def meaning_of(postprocessing: Postprocessing | None, outputs: Sequence[TensorSpec]) -> Postprocessing:
    """What outputs mean. Raises EngineError, in one line, where nothing says it."""
    wanted = postprocessing or default_of(outputs)
    if wanted is None or wanted.kind == "none":
        found = ", ".join(map(str, outputs))
        raise EngineError(f"the bundle says not what {found} means; export it with --postprocess")
    return wanted
