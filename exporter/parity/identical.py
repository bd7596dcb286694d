"""Two ONNX files that give the same bits: no float64, and no PyTorch, is needed to tell that they compute the same."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from ..errors import PlainconvError
from ..onnx_file.file import read
from .batches import Run, in_batches
from .inputs import MAC_BUDGET, batch_of, test_inputs
from .onnx_run import run_onnx

MOST_ELEMENTS = 1 << 31
"""Of an input that is tried."""
BATCH = 2
"""Images at a time where the batch is open."""


def are_identical(source: Path, plain: Path, sizes: Sequence[int]) -> bool:
    """Whether `plain` gives what `source` gives in ONNX Runtime, bit for bit, all of it finite.

    On two random images and the edges: `test_inputs`. An open axis other than the batch is tried with `sizes` in turn,
    until `source` runs. False too where it does not, or ONNX Runtime refuses one of the two.
    """
    try:
        graph, _ = read(source)
        run = run_onnx(source, optimized=False)
    except PlainconvError:
        return False
    for examples in examples_of(graph, sizes):
        batch = batch_of(x.shape for x in examples.values()) or 1
        inputs = test_inputs(examples, seed=0, macs=MAC_BUDGET / 5)
        arrays, whole = tuple(inputs.arrays.values()), [name in inputs.whole for name in inputs.arrays]
        try:
            wanted = in_batches(fed(run, examples), arrays, batch, whole=whole)
        except Exception:  # ONNX Runtime's, without a common base: whatever a graph makes of sizes that are not its own
            continue
        del run  # one network at a time
        try:
            found = in_batches(fed(run_onnx(plain, optimized=False), examples), arrays, batch, whole=whole)
        except Exception:  # as above
            return False
        return all(map(_is_same, wanted, found))
    return False


def _is_same(wanted: np.ndarray, found: np.ndarray) -> bool:
    finite = wanted.dtype.kind != "f" or bool(np.isfinite(wanted).all())
    return finite and wanted.dtype == found.dtype and np.array_equal(wanted, found)


def fed(run: Run, examples: Mapping[str, np.ndarray]) -> Run:
    """`run` on arrays in the types of `examples`."""
    types = [x.dtype for x in examples.values()]
    return lambda *arrays: run(*(a.astype(t, copy=False) for a, t in zip(arrays, types, strict=True)))


def examples_of(graph: gs.Graph, sizes: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
    """Zeros for each input, of each of `sizes` along its open axes; none where one is no tensor of numbers."""
    for size in sizes:
        examples = {}
        for tensor in graph.inputs:
            if tensor.shape is None or isinstance(tensor.dtype, int) or np.dtype(tensor.dtype).kind not in "biuf":
                return
            axes = [n if isinstance(n, int) else (BATCH if axis == 0 else size) for axis, n in enumerate(tensor.shape)]
            if not 0 < prod(axes) < MOST_ELEMENTS:
                return
            examples[str(tensor.name)] = np.zeros(axes, np.dtype(tensor.dtype))
        if not examples:
            return
        yield examples
