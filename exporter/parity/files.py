"""Two ONNX files that should compute the same, judged as any step is: the first in float64, and its own error."""

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor

from ..count import count_module
from ..errors import ExportError, PlainconvError, one_line
from ..onnx_file.file import read
from ..onnx_module import module_from_onnx
from .batches import Run
from .evaluate import reference_from_module
from .onnx_run import run_onnx
from .record import FAILED, Parity, unmeasured

MOST_MACS = 100e9
"""Multiply-accumulates of one batch beyond which a file is not evaluated in float64."""
MOST_ELEMENTS = 1 << 31
"""Of an input that is tried."""
BATCH = 2
"""Images at a time where the batch is open."""


def judged_files(source: Path, plain: Path, sizes: Sequence[int]) -> tuple[Parity, ...] | None:
    """`plain` in ONNX Runtime beside `source` in float64, a record an output.

    The error of `source` itself, in PyTorch and in ONNX Runtime, sets what is allowed. An open axis other than the
    batch is tried with `sizes` in turn. None where `source` cannot be evaluated in float64, or is too large to be, and
    where nothing can be told from its outputs.
    """
    try:
        graph, _ = read(source)
        module, names = module_from_onnx(graph), [str(t.name) for t in graph.outputs]
    except PlainconvError:
        return None
    for examples in _examples(graph, sizes):
        own_runs = _own_runs(source, examples)
        if not own_runs:  # what ONNX Runtime refuses of both tells nothing
            return None
        try:
            cost = count_module(module, tuple(examples.values()))
            if cost.macs > MOST_MACS:
                return None
            batch = next(iter(examples.values())).shape[0]
            reference = reference_from_module(
                module,
                examples,
                output_names=names,
                macs=cost.macs / batch,
                longest_sum=cost.longest_sum,
                own_runs=own_runs,
            )
        except Exception:  # whatever a graph makes of sizes that are not its own
            continue
        try:
            found = reference.judge(plain.name, _fed(plain, examples))
        except Exception as error:  # ONNX Runtime's, without a common base
            return (unmeasured(plain.name, names[0], f"{FAILED}: it does not run ({one_line(error, 200)})"),)
        return found if all(p or p.failed for p in found) else None
    return None


def _own_runs(source: Path, examples: dict[str, Tensor]) -> list[Run]:
    try:
        return [_fed(source, examples)]
    except ExportError:
        return []


def _fed(path: Path, examples: dict[str, Tensor]) -> Run:
    run = run_onnx(path, optimized=False)
    types = [x.numpy().dtype for x in examples.values()]
    return lambda *arrays: run(*(a.astype(t, copy=False) for a, t in zip(arrays, types, strict=True)))


def _examples(graph: gs.Graph, sizes: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    """Zeros for each input, of each of `sizes` along its open axes; none where one is no tensor of numbers."""
    for size in sizes:
        examples = {}
        for tensor in graph.inputs:
            if tensor.shape is None or isinstance(tensor.dtype, int) or np.dtype(tensor.dtype).kind not in "biuf":
                return
            axes = [n if isinstance(n, int) else (BATCH if axis == 0 else size) for axis, n in enumerate(tensor.shape)]
            if not 0 < prod(axes) < MOST_ELEMENTS:
                return
            examples[str(tensor.name)] = torch.zeros(axes, dtype=_torch_type(tensor.dtype))
        if not examples:
            return
        yield examples


def _torch_type(dtype: object) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, np.dtype(dtype))).dtype  # type: ignore[call-overload]
