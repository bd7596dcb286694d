"""How long each node of an ONNX graph takes on this machine's CPU. ONNX Runtime is imported here alone, and late."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import PlanError, one_line
from .wiring import Wiring


def measured_profile(
    onnx: Path, *, threads: int = 1, rounds: int = 5, axes: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, float]:
    """Node → seconds in ONNX Runtime, the median of `rounds` runs on seeded normal inputs, after one that warms up.

    Nodes run one after another, as the file has them: nothing is fused, so that each has a time. Open axes are as
    `axes` says, or 1.

    Raises PlanError where ONNX Runtime refuses the file or random inputs.
    """
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(str(onnx), options, ["CPUExecutionProvider"])
            feeds = random_inputs(session.get_inputs(), axes or {}, seed)
            for _ in range(rounds + 1):
                session.run(None, feeds)
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise PlanError(f"{onnx.name} cannot be measured ({one_line(error)}); leave the profile out") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    taken: dict[str, list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            taken.setdefault(name.removesuffix("_kernel_time"), []).append(event["dur"] * 1e-6)
    return {name: median(times[1:] or times) for name, times in taken.items()}


def profile_of_wiring(measured: Mapping[str, float], wiring: Wiring) -> dict[str, float]:
    """The times of the nodes that `wiring` has by these names: a node without a name has none in a profile."""
    return {op.name: measured[op.name] for op in wiring.ops if op.name in measured}


def random_inputs(tensors: Any, axes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Seeded arrays for what an ONNX Runtime session takes: normal ones, zeros and ones where they are integers."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for tensor in tensors:
        shape = [n if isinstance(n, int) else axes.get(n, 1) for n in tensor.shape]
        name = tensor.type.removeprefix("tensor(").removesuffix(")")
        dtype = ir.DataType[{"float": "FLOAT", "double": "DOUBLE"}.get(name, name.upper())].numpy()
        array = rng.integers(0, 2, shape) if dtype.kind in "biu" else rng.standard_normal(shape)
        arrays[tensor.name] = array.astype(dtype)
    return arrays
