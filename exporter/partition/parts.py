"""Each part of a plan as an ONNX model of its own, and the parts run in order as the network they came from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import CheckFailedError, PlanError, one_line
from ..onnx_file.ir_graph import save
from .plan import Part, Plan
from .problems import problems_of_plan
from .wiring import Wiring, values_read, wiring_of

Run = Callable[..., Sequence[np.ndarray]]
"""Arrays, one an input of the network, to all its outputs, as `exporter.parity.Run`."""


@dataclass(frozen=True)
class Recomposed:
    """How one output of the parts compares with the whole's: the largest |difference|, and over the whole's spread."""

    output: str
    difference: float
    error: float
    tolerance: float

    def __bool__(self) -> bool:
        return self.error <= self.tolerance


def parts_of_plan(model: ir.Model, plan: Plan) -> list[ir.Model]:
    """A model for each part: inputs what it reads, outputs what it writes, their types and shapes those in `model`.

    `model` is `prepared` and stays as it is; its weights are shared, not copied. Its opsets and functions, and where
    the part belongs, are in each.

    Raises PlanError with all problems of the plan.
    """
    wiring = wiring_of(model)
    problems = problems_of_plan(plan, wiring)
    if problems:
        raise PlanError(f"the plan does not fit the network: {'; '.join(problems)}")
    nodes = list(model.graph)
    return [_part_model(model, nodes, wiring, part) for part in plan.parts]


def file_of_part(part: Part) -> str:
    """What the file of a part is called."""
    return f"{part.name}.onnx"


def write_parts(model: ir.Model, plan: Plan, folder: Path) -> list[Path]:
    """Write each part to `folder`, its weights beside it beyond 1 GB; the paths in the order of the plan.

    Raises PlanError with all problems of the plan.
    """
    paths = []
    for part, made in zip(plan.parts, parts_of_plan(model, plan), strict=True):
        path = folder / file_of_part(part)
        save(made, path)
        paths.append(path)
    return paths


def recomposed(parts: Sequence[Path], plan: Plan, inputs: Sequence[str], outputs: Sequence[str]) -> Run:
    """The files of a plan's parts as the whole network: run in order by ONNX Runtime, one session each.

    Nothing is optimized: each node computes what it does in the whole, so that in float32 the outputs are the same to
    the last bit. `inputs` and `outputs` are the network's, in its order.

    Raises PlanError where ONNX Runtime refuses a part.
    """
    import onnxruntime as ort

    sessions = [_session(path, part.name) for path, part in zip(parts, plan.parts, strict=True)]
    sources = [{v: plan.writer(v, at) for v in part.reads} for at, part in enumerate(plan.parts)]

    def run(*arrays: np.ndarray) -> Sequence[np.ndarray]:
        # as its own values, which may be of types that NumPy lacks, such as float8
        made: dict[tuple[int | None, str], Any] = {
            (None, name): ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x))
            for name, x in zip(inputs, arrays, strict=True)
        }
        for at, (part, session) in enumerate(zip(plan.parts, sessions, strict=True)):
            feeds = {value: made[sources[at][value], value] for value in part.reads}
            values = session.run_with_ort_values(list(part.writes), feeds)
            made.update({(at, value): y for value, y in zip(part.writes, values, strict=True)})
        return [made[plan.source(value, 0), value].numpy() for value in outputs]

    return run


def check_recomposed(
    whole: Path, parts: Sequence[Path], plan: Plan, inputs: Sequence[np.ndarray], *, tolerance: float = 0.0
) -> tuple[Recomposed, ...]:
    """Run the whole and the parts, nothing optimized, on the same arrays and compare each output.

    Args:
        whole: the ONNX file that the parts were made of.
        parts: their files, in the order of the plan.
        plan: the plan.
        inputs: arrays, one an input of the network, in its order.
        tolerance: in units of an output's standard deviation over its elements; 0 asks for equal bits.

    Raises:
        CheckFailedError: an output is further off than that, or not a number where the whole's is one.
        PlanError: ONNX Runtime refuses a file.

    """
    session = _session(whole, whole.name)
    names = [tensor.name for tensor in session.get_inputs()]
    outputs = [tensor.name for tensor in session.get_outputs()]
    wanted = session.run(outputs, dict(zip(names, inputs, strict=True)))
    found = recomposed(parts, plan, names, outputs)(*inputs)
    checks = tuple(
        _compared(name, np.asarray(y0), y, tolerance) for name, y0, y in zip(outputs, wanted, found, strict=True)
    )
    failed = [check for check in checks if not check]
    if failed:
        one = failed[0]
        raise CheckFailedError(
            f"the parts do not recompose to the network: output {one.output} is off by {one.error:.2g} of its spread, "
            f"wanted {tolerance:g}; cut elsewhere, or report it"
        )
    return checks


def _compared(name: str, wanted: np.ndarray, found: np.ndarray, tolerance: float) -> Recomposed:
    if wanted.dtype != found.dtype or wanted.shape != found.shape:
        return Recomposed(name, np.inf, np.inf, tolerance)
    if wanted.tobytes() == found.tobytes():
        return Recomposed(name, 0.0, 0.0, tolerance)
    y0, y = wanted.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        difference = float(np.abs(y - y0).max())
        spread = float(y0.std()) or 1.0
    error = difference / spread
    return Recomposed(name, difference, error if np.isfinite(error) else np.inf, tolerance)


def _part_model(model: ir.Model, nodes: Sequence[ir.Node], wiring: Wiring, part: Part) -> ir.Model:
    graph = model.graph
    known = {str(v.name): v for node in nodes for v in node.outputs if v.name} | {str(v.name): v for v in graph.inputs}
    own = [nodes[at] for at in wiring.needed(part.writes, part.reads)[0]]
    used = {str(v.name) for node in own for v in values_read(node)}
    view = ir.GraphView(
        [known[value] for value in part.reads],
        [known[value] for value in part.writes],
        nodes=own,
        initializers=[value for name, value in graph.initializers.items() if name in used],
        opset_imports=dict(graph.opset_imports),
        name=f"{graph.name or 'network'}.{part.name}",
    )
    facts = {"device": str(part.device), "part": part.name, "stream": str(part.stream)}
    return ir.Model(
        view.clone(),
        ir_version=model.ir_version,
        producer_name="plainconv",
        functions=tuple(model.functions.values()),
        metadata_props={**model.metadata_props, **{f"plainconv.{key}": value for key, value in facts.items()}},
    )


def _session(path: Path, name: str) -> "ort.InferenceSession":  # type: ignore[name-defined]  # noqa: F821
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise PlanError(f"{name}: ONNX Runtime refuses it ({one_line(error)}); run the ONNX checker on it") from error
