"""What the parts of a split network wait for. Pure: every runtime runs by this, and none is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass

from plainconv.exporter.bundle import PartRecord, SplitRecord, TensorSpec

Place = tuple[int, int]
"""A device of the plan and a stream of it: it runs one part at a time, in the order of the split."""


@dataclass(frozen=True)
class Step:
    """The run of one part, at `place`.

    `sources` says for each input which step makes it, by position; None for an input of the network. `waits` are the
    steps of other places among them: those of its own have run before it anyway. `readers` counts, for each output, the
    steps that read it from here, and the network's user.
    """

    part: PartRecord
    place: Place
    sources: Mapping[str, int | None]
    waits: tuple[int, ...]
    readers: Mapping[str, int]


@dataclass(frozen=True)
class Schedule:
    """The steps in an order in which they can run, and the step that each output of the network is taken from."""

    steps: tuple[Step, ...]
    results: Mapping[str, int | None]

    @property
    def places(self) -> tuple[Place, ...]:
        """Those that are used, the first device first."""
        return tuple(sorted({step.place for step in self.steps}))


def schedule_of(split: SplitRecord) -> Schedule:
    """The schedule of a split of an open bundle, whose names are known to fit."""
    at = {part.name: position for position, part in enumerate(split.parts)}
    results = {name: None if part is None else at[part] for name, part in split.results.items()}
    sources = [
        {name: None if part is None else at[part] for name, part in each.sources.items()} for each in split.parts
    ]
    readers = [{spec.name: 0 for spec in part.outputs} for part in split.parts]
    for taken in (*sources, results):
        for name, source in taken.items():
            if source is not None:
                readers[source][name] += 1
    places = [(part.device, part.stream) for part in split.parts]
    steps = [
        Step(
            part,
            places[position],
            sources[position],
            tuple(sorted({s for s in sources[position].values() if s is not None and places[s] != places[position]})),
            readers[position],
        )
        for position, part in enumerate(split.parts)
    ]
    return Schedule(tuple(steps), results)


def whole(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Schedule:
    """The schedule of a network that is one part, without a name."""
    part = PartRecord("", "", "", 0, 0, inputs, outputs, {spec.name: None for spec in inputs})
    step = Step(part, (0, 0), {spec.name: None for spec in inputs}, (), {spec.name: 1 for spec in outputs})
    return Schedule((step,), {spec.name: 0 for spec in outputs})
