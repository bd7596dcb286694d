"""What is kept while the steps of a job are taken: parities, accuracies, seconds."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import TensorSpec
from .errors import CheckFailedError
from .parity import EvalData, Parity, Reference, Run, accuracy, correctness, run_onnx
from .progress import track

EAGER, PLAIN, ONNX = "eager float32", "plain network", "ONNX (ONNX Runtime)"


@dataclass
class Steps:
    """Parities, accuracies and seconds, as the steps are taken."""

    reference: Reference
    data: EvalData | None
    parities: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    right: np.ndarray | None = None

    def check(self, step: str, run: Run, *, judged: bool = True) -> None:
        """Compare one step with the reference and, where there are labels, count what it gets right."""
        counted = None
        if self.data is not None:
            right = correctness(run, self.data, self.reference.batch)
            self.right = right if self.right is None else self.right
            counted = accuracy(step, right, self.right)
        if not judged:
            assert counted is not None
            self.parities.append({"step": step, "status": "the reference", "accuracy": _accuracy_json(counted)})
            return
        for parity in self.reference.judge(step, run):
            self.add(parity, _accuracy_json(counted) if counted else None)
        if counted is not None and not counted:
            self.failed.append(str(counted))

    def add(self, parity: Parity, counted: Mapping[str, Any] | None = None) -> None:
        """Keep the record of one step."""
        self.parities.append(parity.as_json() | ({"accuracy": counted} if counted else {}))
        if parity.failed:
            self.failed.append(str(parity))

    def raise_failed(self) -> None:
        """Raise CheckFailedError for the first that did not hold."""
        if self.failed:
            raise CheckFailedError(f"{self.failed[0]}; no bundle was written")


def _accuracy_json(counted: Any) -> dict[str, Any]:
    return {"correct": counted.correct, "images": counted.images, "changed": counted.changed}


class Clock:
    """Seconds of each step."""

    def __init__(self, total: int) -> None:
        self.seconds: dict[str, float] = {}
        self.total = total
        self._show: Callable[[int, str], None] = lambda steps, note: None

    @contextmanager
    def running(self, what: str) -> Iterator[None]:
        """Show how many of the steps are done."""
        with track(what, total=self.total, unit="steps") as bar:
            self._show = bar.advance
            yield

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        self._show(0, name)
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        self._show(1, "")


def onnx_run(path: Path, inputs: Sequence[TensorSpec]) -> Run:
    """`path` in ONNX Runtime, fed in the types of its inputs."""
    return fed(run_onnx(path), inputs)


def fed(run: Run, inputs: Sequence[TensorSpec]) -> Run:
    """`run` on arrays that are cast to the types of `inputs`: the reference keeps every float input in float32."""
    return lambda *arrays: run(*(a.astype(spec.dtype, copy=False) for a, spec in zip(arrays, inputs, strict=True)))
