"""What computes behind the queue: a runner in this process, or anything else that takes arrays and gives arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from plainconv.exporter.bundle import Bundle

from ..loading import load
from ..runner import Array, Profiles, Runner
from .options import ServeOptions


class Backend(Protocol):
    """Computes; it is called by as many threads at once as the batcher has.

    Where `is_here` is true it computes in this process and waits for nobody else, nor for a GPU, which may hang.
    """

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs by name, in arrays that nothing writes to again; every exception is this call's alone."""

    def close(self) -> None:
        """Release what is held; no call is under way."""


@dataclass(frozen=True)
class Loaded:
    """A bundle that is ready to compute: by which runtime, in which precision, in how many runs at a time."""

    backend: Backend
    runtime: str
    precision: str
    profiles: Profiles = ()
    workers: int = 1


Loader = Callable[[Bundle, ServeOptions], Loaded]
"""How the bundle of a folder becomes a backend. Raises EngineError where nothing runs it."""


class RunnerBackend:
    """A runner of this process."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.is_here = getattr(runner, "provider", "") == "cpu"

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """The runner's outputs."""
        return self._runner(inputs)

    @property
    def lost(self) -> bool:
        """Whether the runner lost its device: then no run of it succeeds any more."""
        return bool(getattr(self._runner, "lost", False))

    def close(self) -> None:
        """Close the runner."""
        self._runner.close()


def load_here(bundle: Bundle, options: ServeOptions) -> Loaded:
    """The best engine of the bundle that this machine can run, in this process. Raises EngineError."""
    runner = load(
        bundle,
        options.engine,
        precision=options.precision,
        threads=options.threads,
        devices=options.devices,
        eager_kernels=options.eager_kernels,
    )
    return Loaded(RunnerBackend(runner), runner.backend, runner.precision, runner.profiles, options.workers)
