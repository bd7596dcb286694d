"""Which requests may share a run: those that differ along axis 0 alone, where the bundle leaves that axis open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plainconv.exporter.bundle import ShapeRange, TensorSpec

from ..runner import Array, Profiles, covers

Tails = tuple[tuple[int, ...], ...]
"""The shapes of the inputs without axis 0, in the order of the model's inputs."""


def batch_axis(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """The name of the batch axis, None where there is none.

    It is axis 0 of every input and of every output, open, of one name, and no other axis has that name.
    """
    tensors = (*inputs, *outputs)
    names = {spec.shape[0] if spec.shape else 0 for spec in tensors}
    name = names.pop() if len(names) == 1 else 0
    if not isinstance(name, str) or any(name in spec.shape[1:] for spec in tensors):
        return None
    return name


@dataclass(frozen=True)
class Covering:
    """How many rows a model takes at once: up to `most`, and only what an optimization profile of it covers."""

    names: tuple[str, ...]
    most: int
    profiles: Profiles = ()

    def tails(self, inputs: Mapping[str, Array]) -> Tails:
        """What must be the same in all inputs of one run."""
        return tuple([inputs[name].shape[1:] for name in self.names])

    def takes(self, rows: int, tails: Tails) -> bool:
        """Whether a run of so many rows may be."""
        return rows <= self.most and (not self.profiles or any(self._covers(p, rows, tails) for p in self.profiles))

    def _covers(self, profile: Mapping[str, ShapeRange], rows: int, tails: Tails) -> bool:
        shapes = zip(self.names, tails, strict=True)
        return all(covers(profile[name], (rows, *tail)) for name, tail in shapes if name in profile)
