"""Two ONNX files that should compute the same, judged as any step is: the first in float64, and its own error."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..count import count_module
from ..errors import ExportError, PlainconvError, one_line
from ..onnx_file.file import leaves_order_open, read
from ..onnx_module import module_from_onnx
from .batches import Run
from .evaluate import reference_from_module
from .identical import examples_of, fed
from .onnx_run import run_onnx
from .record import FAILED, Parity, unmeasured

MOST_MACS = 100e9
"""Multiply-accumulates of one batch beyond which a file is not evaluated in float64."""


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
    for arrays in examples_of(graph, sizes):
        examples = {name: torch.from_numpy(x) for name, x in arrays.items()}
        own_runs = _own_runs(source, arrays)
        if own_runs is None:  # what ONNX Runtime refuses of both tells nothing
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
            found = reference.judge(plain.name, fed(run_onnx(plain, optimized=False), arrays))
        except Exception as error:  # ONNX Runtime's, without a common base
            return (unmeasured(plain.name, names[0], f"{FAILED}: it does not run ({one_line(error, 200)})"),)
        return found if all(p or p.failed for p in found) else None
    return None


def _own_runs(source: Path, examples: Mapping[str, np.ndarray]) -> list[Run] | None:
    """None where ONNX Runtime refuses it; none of a file whose lists it may order as it likes."""
    try:
        run = fed(run_onnx(source, optimized=False), examples)
    except ExportError:
        return None
    return [] if leaves_order_open(source) else [run]
