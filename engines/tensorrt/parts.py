"""The engines of a network's parts, and their execution contexts together. A network that is whole is one part."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

from .contexts import Context, Contexts, Shape
from .program import Layout, Track, Value
from .resources import Resources


@dataclass(frozen=True)
class PartEngine:
    """One part ready to run: `engine`, an ICudaEngine that was deserialized while CUDA device `device` was in use.

    `name` is empty where it is the whole network. `profiles` are the engine's optimization profiles, as many as the
    network has and in the same order, or none where the part's shapes are fixed. `outlives` is held for as long as the
    engine; `notes` is what its user should know.
    """

    name: str
    engine: Any
    contexts: Contexts
    device: int
    profiles: tuple[Mapping[str, ShapeRange], ...] = ()
    outlives: object = None
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What a message calls it."""
        return self.name or "the network"

    def says(self, error: EngineError) -> EngineError:
        """An error of this part, which says so."""
        return EngineError(f"part {self.name} on GPU {self.device}: {error}") if self.name else error


class PartContexts:
    """Execution contexts of all parts, one of each, as a lane makes, tells and drops them.

    Whatever a context is asked, its part's device is in use. `scratch` is the memory to work in of each stream.
    """

    def __init__(
        self,
        parts: Sequence[PartEngine],
        layout: Layout,
        resources: Resources,
        scratch: Mapping[Track, tuple[int, int]],
    ) -> None:
        self._parts, self._layout, self._resources, self._scratch = parts, layout, resources, scratch

    def new(self, profile: int, made: list[Context], *, repeats: bool = False) -> None:
        """Put a context of each part into `made`; what that enqueues is to be waited for."""
        for at, part in enumerate(self._parts):
            with self._asking(part):
                context = part.contexts.new(repeats=repeats)
                made.append(context)
                if part.profiles:
                    context.use_profile(profile, self._resources.stream(self._layout.track(at)))
                if part.contexts.scratch:
                    context.use_scratch(*self._scratch[self._layout.track(at)])

    def bind(
        self,
        contexts: Sequence[Context],
        shapes: Mapping[Value, Shape],
        bound: Sequence[Mapping[str, int]],
        addresses: Sequence[int],
    ) -> None:
        """Tell contexts the shapes of what they read, and where all of it is: `bound` are positions in `addresses`."""
        for at, (step, part) in enumerate(zip(self._layout.schedule.steps, self._parts, strict=True)):
            with self._asking(part):
                for name, source in step.sources.items():
                    contexts[at].set_shape(name, shapes[source, name])
                for name, slot in bound[at].items():
                    contexts[at].set_address(name, addresses[slot])

    def shapes(self, contexts: Sequence[Context], inputs: Mapping[str, Shape]) -> dict[Value, Shape]:
        """The shape of every value, from those of the network's inputs: parts say those of what they make, in order."""
        known: dict[Value, Shape] = {(None, name): shape for name, shape in inputs.items()}
        try:
            for at, (step, part) in enumerate(zip(self._layout.schedule.steps, self._parts, strict=True)):
                with self._asking(part):
                    for name, source in step.sources.items():
                        contexts[at].set_shape(name, known[source, name])
                    known |= {(at, spec.name): contexts[at].shape_of(spec.name) for spec in step.part.outputs}
        finally:
            self._resources.go_home()
        return known

    def check_capturable(self, contexts: Sequence[Context]) -> None:
        """Raise EngineError where the runtime says that one of them cannot be captured now."""
        for at, part in enumerate(self._parts):
            with self._asking(part):
                contexts[at].check_capturable(self._resources.stream(self._layout.track(at)))
        self._resources.go_home()

    def drop(self, contexts: list[Context]) -> None:
        """Give contexts back, each while its device is in use."""
        with contextlib.ExitStack() as each:
            each.callback(self._resources.go_home)
            for part, context in zip(self._parts, contexts, strict=False):
                each.callback(self._resources.on, part.device, context.let_go)
        contexts.clear()

    @contextlib.contextmanager
    def _asking(self, part: PartEngine) -> Iterator[None]:
        self._resources.use(part.device)
        try:
            yield
        except EngineError as error:
            raise part.says(error) from error


def fixed_shape(spec: TensorSpec) -> Shape:
    """The shape of a tensor without free axes. Raises EngineError where it has one."""
    sizes = tuple(axis for axis in spec.shape if isinstance(axis, int))
    if len(sizes) != len(spec.shape):
        raise EngineError(f"{spec} has a free axis and the engine no optimization profile for it; build it again")
    return sizes
