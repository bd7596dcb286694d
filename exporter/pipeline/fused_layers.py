"""A graph as a runtime fuses it, module by module: by ONNX Runtime as it serves, and by a bundle's engines.

Nothing tells what goes on inside a fused graph, so its values are made outputs: a few at a time, in `GROUPS` turns, as
two neighbours that are both read cannot be fused. An engine is built anew for each turn, from the same graph with the
same options, for the GPU that is here.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from plainconv.engines.building import build_into
from plainconv.engines.choice import graph_of
from plainconv.engines.cuda.gpu import find_gpu
from plainconv.engines.loading import run_record
from plainconv.engines.options import BuildOptions
from plainconv.engines.runner import Runner

from ..bundle import Bundle, EngineRecord, TensorSpec, write_bundle
from ..parity.layers import Eager, Form, Matches, StepLayers, compare_layers
from ..parity.measure import MULTIPLE
from ..parity.segments import GROUPS, Segments

SERVED = "ONNX Runtime, as it serves"
_READ = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
"""Types of values that a runner gives."""


def as_fused(step: str, form: Form, unfused: StepLayers, eager: Eager, matches: Matches) -> StepLayers:
    """`form` from the input on: nowhere further off than a few times what its graph is `unfused`."""
    found = compare_layers(step, form, eager, matches)
    by_value = {b.value: b for b in unfused.boundaries}
    kept = []
    for b in found.boundaries:
        known = by_value.get(b.value)
        if known is not None and math.isfinite(known.error) and not math.isnan(b.error):
            limit = MULTIPLE * max(known.error, known.own, known.tolerance)
            kept.append(replace(b, local=b.error, tolerance=limit))
    return StepLayers(step, tuple(kept))


@dataclass(frozen=True)
class Served:
    """A graph with ONNX Runtime's optimizer."""

    form: Segments

    @property
    def names(self) -> Sequence[str]:
        """See `Form`."""
        return self.form.names

    @property
    def nodes(self) -> Mapping[str, str]:
        """See `Form`."""
        return self.form.nodes

    def free(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """See `Form`; none where it does not run."""
        return self.form.optimized(inputs)

    def local(self, inputs: Sequence[np.ndarray], right: Mapping[str, np.ndarray]) -> list[tuple[str, object]]:
        """Nothing: a fused graph has no pieces."""
        return []


class EngineForm:
    """An engine of a bundle, which must be able to run here, built once for each turn; a context manager."""

    def __init__(self, bundle: Bundle, record: EngineRecord, values: Sequence[str]) -> None:
        """Build and load them. Raises EngineError where one cannot be built, or run."""
        self._inputs = [spec.name for spec in bundle.inputs]
        model = onnx.load(bundle.file(graph_of(bundle.manifest, record.precision)[0]))
        specs = _specs(model, values)
        makers = {name: node for node in model.graph.node for name in node.output}
        self.names = list(specs)
        self.nodes = {name: makers[name].name or makers[name].op_type for name in specs}
        self._turns: list[tuple[list[str], Runner]] = []
        with ExitStack() as stack:
            for turn in range(min(GROUPS, len(specs))):
                names = self.names[turn::GROUPS]
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                read = [specs[name] for name in names]
                self._turns.append((names, stack.enter_context(_runner(bundle, record, model, read, Path(folder)))))
            self._stack = stack.pop_all()

    def __enter__(self) -> "EngineForm":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def free(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """See `Form`."""
        given, found = dict(zip(self._inputs, inputs, strict=True)), dict[str, np.ndarray]()
        for names, runner in self._turns:
            results = runner(given)
            found |= {name: np.asarray(results[name], np.float32) for name in names}
        return found

    def local(self, inputs: Sequence[np.ndarray], right: Mapping[str, np.ndarray]) -> list[tuple[str, object]]:
        """Nothing: an engine has no pieces."""
        return []


def _specs(model: onnx.ModelProto, values: Sequence[str]) -> dict[str, TensorSpec]:
    """Those of `values` that the graph computes, in the order of their nodes, and that a runner can give."""
    wanted, found = set(values), {}
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.output)}
    for name in (name for node in model.graph.node for name in node.output):
        tensor = known.get(name)
        if name in wanted and tensor is not None and tensor.elem_type in _READ and tensor.HasField("shape"):
            axes = tensor.shape.dim
            shape = tuple(d.dim_param or f"{name}_{i}" if not d.dim_value else d.dim_value for i, d in enumerate(axes))
            found[name] = TensorSpec(name, _READ[tensor.elem_type], shape)
    return found


def _runner(
    bundle: Bundle, record: EngineRecord, model: onnx.ModelProto, read: Sequence[TensorSpec], folder: Path
) -> Runner:
    """The engine of the graph with the values `read` as further outputs."""
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    more = [spec for spec in read if spec.name not in outputs]
    types = {name: kind for kind, name in _READ.items()}
    for spec in more:
        marked.graph.output.append(onnx.helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape))
    backend_options: dict[str, Any] = {k: v for k, v in record.options.items() if v is not None}
    targets = (find_gpu().target,) if record.device is None else ()
    options = BuildOptions(targets=targets, profiles=record.profiles, tf32=record.tf32, **backend_options)
    with write_bundle(folder / "marked") as draft:
        draft.manifest.inputs, draft.manifest.outputs = bundle.inputs, (*bundle.outputs, *more)
        onnx.save(marked, draft.path("model.onnx"))
        draft.link("checkpoint", sha256=bundle.manifest.chain[0].sha256)
        draft.link_onnx()
        built = build_into(draft, engine=record.backend, options=options)
    return run_record(Bundle.open(folder / "marked"), built)
