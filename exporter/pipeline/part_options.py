"""The builder's options for each part of a split network: its profiles are the network's, as far as they reach it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from plainconv.engines import choice

from ..bundle import Bundle, Draft, PartRecord, ShapeRange, SplitRecord
from ..errors import EngineError
from ..partition import read_model, shapes_at

if TYPE_CHECKING:
    from plainconv.engines import BuildOptions

Shapes = Mapping[str, tuple[int, ...]]


def part_options(
    bundle: Bundle | Draft, split: SplitRecord, options: "BuildOptions"
) -> Iterator[tuple[str, "BuildOptions"]]:
    """For each part its name, and `options`, those of the whole network's engine, as they are for it.

    Raises EngineError where the shapes that a part meets cannot be inferred.
    """
    corners: list[tuple[Shapes, ...]] = []
    if options.profiles:
        file, _ = choice.graph_of(bundle.manifest, split.precision)
        model = read_model(bundle.file(file))
        for profile in options.profiles:
            ranges = [(each.min, each.opt, each.max) for each in profile.values()]
            shapes = (dict(zip(profile, shapes, strict=True)) for shapes in zip(*ranges, strict=True))
            corners.append(tuple(shapes_at(model, each) for each in shapes))
    for part in split.parts:
        is_open = any(isinstance(axis, str) for spec in part.inputs for axis in spec.shape)
        yield part.name, replace(options, profiles=tuple(_profile(part, each) for each in corners) if is_open else ())


def _profile(part: PartRecord, corners: Sequence[Shapes]) -> dict[str, ShapeRange]:
    """What a part's inputs are at the smallest, the usual and the largest shapes of the network's."""
    unknown = next((s.name for s in part.inputs if not all(s.name in shapes for shapes in corners)), None)
    if unknown is not None:
        raise EngineError(
            f"part {part.name}: the shape of {unknown} is not known before it runs, and an engine wants its range; "
            "split it elsewhere"
        )
    return {spec.name: ShapeRange(*(shapes[spec.name] for shapes in corners)) for spec in part.inputs}
