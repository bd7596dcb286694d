"""What is kept while the steps of a job are taken: parities, accuracies, seconds."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..bundle import TensorSpec
from ..errors import CheckFailedError, ExportError
from ..onnx_file.layer_types import types_in_file
from ..onnx_file.type_names import dtype_of
from ..parity import Parity, Reference, Run, run_onnx
from ..precision import typed_run
from ..progress import track

EAGER, PLAIN, ONNX = "eager float32", "plain network", "ONNX (ONNX Runtime)"


class Judges(Protocol):
    """Labelled images, as `parity.EvalData` are and `eval_data.Judged`."""

    def of_inputs(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Those that lower precisions are held to, by the names of the network's inputs."""

    def count(self, run: Run, batch: int) -> Any:
        """What `run` gets right: `parity.accuracy.Rights` or `Scores`."""


@dataclass
class Steps:
    """Parities, accuracies and seconds, as the steps are taken."""

    reference: Reference
    data: Judges | None
    parities: list[Any] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # of these, the accuracy that moved
    before: Any = None  # what the network gets right before any step

    def against(self, reference: Reference) -> "Steps":
        """The same record, for steps that are held to another reference."""
        return replace(self, reference=reference)

    def count_base(self, run: Run) -> None:
        """Count what `run` gets right: the steps that follow are compared with it."""
        assert self.data is not None
        self.before = self.data.count(run, self.reference.batch)

    def check(
        self, step: str, run: Run, *, judged: bool = True, file: str | None = None, tolerance: float | None = None
    ) -> None:
        """Compare one step with the reference and, where there are labels, count what it gets right.

        `file` is what was run, where a bundle holds several of the kind: what was known of it is forgotten.
        `tolerance` is that of a lower precision, which may also cost accuracy.
        """
        counted = None
        if self.data is not None:
            found = self.data.count(run, self.reference.batch)
            self.before = found if self.before is None else self.before
            counted = found.beside(self.before, step, is_lossy=tolerance is not None)
        if not judged:
            assert counted is not None
            self.parities.append({"step": step, "status": "the reference", "accuracy": counted.as_json()})
            return
        if file is not None:
            self.forget(file)
        for parity in self.reference.judge(step, run, tolerance):
            self.add(parity, None if counted is None else counted.as_json(), file=file)
        if counted is not None and not counted:
            self.failed.append(str(counted))
            self.lost.append(str(counted))

    def add(self, parity: Parity, counted: Mapping[str, Any] | None = None, *, file: str | None = None) -> None:
        """Keep the record of one step, of the file `file` where that tells it from others."""
        of_file = {"file": file} if file else {}
        self.parities.append(parity.as_json() | of_file | ({"accuracy": counted} if counted else {}))
        if parity.failed:
            self.failed.append(str(parity))

    def forget(self, file: str) -> None:
        """Drop what was measured of `file`."""
        self.parities[:] = [record for record in self.parities if record.get("file") != file]

    def raise_failed(self) -> None:
        """Raise CheckFailedError for the first that did not hold."""
        if self.failed:
            raise CheckFailedError(f"{self.failed[0]}; nothing was written")


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
    """`path` in ONNX Runtime, fed in the types of its inputs.

    Where that has no kernels for its types, as it has few for bfloat16, in float32 with each result rounded.
    """
    try:
        run = run_onnx(path)
    except ExportError:
        if not {"bf16", "fp16"} & set(types_in_file(path).values()):
            raise
        run = typed_run(path)
    return fed(run, [spec.dtype for spec in inputs])


def fed(run: Run, types: Sequence[np.dtype | str]) -> Run:
    """`run` on arrays that are cast to these types: the reference keeps every float input in float32."""
    dtypes = [dtype_of(each) for each in types]
    return lambda *arrays: run(*(a.astype(dtype, copy=False) for a, dtype in zip(arrays, dtypes, strict=True)))


def run_of_runner(runner: Any) -> Run:
    """A runner of `engines`, fed in the types of its inputs."""

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        feeds = dict(zip((spec.name for spec in runner.inputs), arrays, strict=True))
        outputs = runner(feeds)
        return [outputs[spec.name] for spec in runner.outputs]

    return fed(run, [spec.dtype for spec in runner.inputs])
