"""An ONNX graph as an nn.Module: what eager PyTorch is to a network of its own, this is to one that came as a file."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import PlainconvError, SourceError, first_line
from ..onnx_file.file import all_tensors, skeleton
from . import layout, pointwise, quantized, resize, sums, windows
from .base import OPS, REMEDY, FormError, Step
from .by_reference import Evaluated, names_read

__all__ = ["OPS", "REMEDY", "OnnxModule", "module_from_onnx"]
del layout, pointwise, quantized, resize, sums, windows  # imported for what they register

MIN_OPSET = 7
"""Before it, ops broadcast as their attributes say."""
QUICK = 4e9
"""Multiply-accumulates at most of a forward that is as quick as what PyTorch loads to do without its numbers."""


def module_from_onnx(graph: gs.Graph, *, any_op: bool = False) -> "OnnxModule":
    """The sorted `graph` as a module in eval mode that evaluates it node by node; it shares the graph's weights.

    It takes the inputs and returns the outputs in the graph's order, one output as a tensor, several as a tuple.
    With `any_op` a node that is no op of ours, or a form of it that is not, is evaluated as `by_reference` has it.

    Raises:
        SourceError: the graph has an op, or a type of weights, that is not taken.

    """
    others = [n for n in graph.nodes if n.op not in (*OPS, "Constant") or (n.domain or "") not in DOMAINS]
    unknown = sorted({n.op for n in others})
    if unknown and not any_op:
        more = f" (and {len(unknown) - 1} more ops)" if unknown[1:] else ""
        raise SourceError(f"the ONNX op {unknown[0]}{more} is not taken as a SOURCE; {REMEDY}")
    if graph.opset < MIN_OPSET:
        raise SourceError(f"the ONNX file has opset {graph.opset}, wanted {MIN_OPSET} or later; {REMEDY}")
    proto = skeleton(graph) if any_op else None
    nodes = {next(filter(None, node.output), ""): node for node in proto.graph.node} if proto else {}
    steps = [_step(node, graph.opset) for node in graph.nodes if node.op != "Constant"]
    module = OnnxModule(
        [replace(step, inputs=names_read(nodes[step.key])) if step.key in nodes else step for step in steps],
        dict(_constants(graph, within=any_op)),
        [t.name for t in graph.inputs],
        [t.name for t in graph.outputs],
        {t.name for node in graph.nodes if node.op == "BatchNormalization" for t in node.inputs[3:5]},
    )
    if proto is not None:
        module.evaluate_others(nodes, proto)
    return module.eval()


DOMAINS = ("", "ai.onnx")


class OnnxModule(nn.Module):
    """See `module_from_onnx`.

    What depends on no input, or on the shapes of inputs alone, is *known*: it is computed from real tensors even where
    the module is evaluated without data, so that shapes computed in the graph are numbers there too.

    `batches` makes it refuse other sizes of the first axis of these inputs, as a graph made for one size must.
    `known` names what is known. `by_reference` are the ops that onnx's own evaluator has evaluated so far.
    """

    def __init__(
        self,
        steps: list[Step],
        constants: dict[str, Tensor],
        input_names: list[str],
        output_names: list[str],
        statistics: set[str],
    ) -> None:
        super().__init__()
        self.steps, self.input_names, self.output_names = steps, input_names, output_names
        self.batches: dict[str, int] = {}
        self.by_reference: set[str] = set()
        self._nodes: dict[str, Any] = {}
        self._evaluated: dict[str, Evaluated] = {}
        self._model: Any = None
        self._watch: Callable[[str, Tensor], Tensor] | None = None
        self._places: dict[str, str] = {}
        for i, (name, values) in enumerate(constants.items()):
            place = self._places[name] = f"constant_{i}"
            if values.is_floating_point() and values.dim() and name not in statistics:
                self.register_parameter(place, nn.Parameter(values, requires_grad=False))
            else:
                self.register_buffer(place, values)
        self.known = self._find_known()
        self._last_reads = self._find_last_reads()

    def evaluate_others(self, nodes: Mapping[str, Any], model: Any) -> None:
        """Let nodes of `model`, by their first outputs, be evaluated by reference where there is no function of ours.

        Raises SourceError for an op that nothing here knows.
        """
        self._nodes, self._model = dict(nodes), model
        for step in self.steps:
            if step.op not in OPS:
                self._evaluator(step)

    def computes(self, *inputs: Tensor) -> bool:
        """Whether shapes are told by computing: as onnx's evaluator does, or where to do without takes longer."""
        places = max((prod(x.shape[:1] + x.shape[2:]) for x in inputs), default=1)
        return bool(self._evaluated) or places * sum(p.numel() for p in self.parameters()) < QUICK

    def shapes(self, *inputs: Tensor) -> dict[str, tuple[int, ...]]:
        """The shape of every value for inputs of these shapes and types; no more is computed where `computes` says so.

        That of a value without one, as a list of tensors is, is left out.
        """
        found: dict[str, tuple[int, ...]] = {}

        def note(name: str, value: Tensor) -> Tensor:
            found[name] = tuple(value.shape)
            return value

        with self.watched(note):
            if self.computes(*inputs):
                with torch.no_grad():
                    self(*inputs)
                return found
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                self(*(fake.from_tensor(x) for x in inputs))
        return found

    @contextmanager
    def watched(self, watch: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
        """Within it, each value that is computed is shown to `watch`, and replaced by what that returns."""
        self._watch = watch
        try:
            yield
        finally:
            self._watch = None

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs for `inputs`."""
        values: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        wrong = next((name for name, n in self.batches.items() if values[name].shape[0] != n), None)
        if wrong is not None:
            raise RuntimeError(f"the graph is made for a batch of {self.batches[wrong]}")
        for step, done in zip(self.steps, self._last_reads, strict=True):
            made = zip(step.outputs, self._results(step, values), strict=False)
            values.update((name, value) for name, value in made if name)
            if self._watch is not None:
                seen = {name: values[name] for name in step.outputs if isinstance(values.get(name), Tensor)}
                values |= {name: self._watch(name, value) for name, value in seen.items()}
            for name in done:
                values.pop(name, None)
        outputs = tuple(self._value(name, values) for name in self.output_names)
        return outputs[0] if len(outputs) == 1 else outputs

    def _results(self, step: Step, values: dict[str, Any]) -> tuple[Tensor, ...]:
        try:
            if step.key in self.known:
                with _disable_current_modes():
                    found = self._call(step, values)
            else:
                found = self._call(step, values)
        except PlainconvError:
            raise
        except Exception as error:  # whatever torch raises, the node is to be named
            raise RuntimeError(f"{step}: {first_line(error)}") from error
        return found if isinstance(found, tuple) else (found,)

    def _call(self, step: Step, values: dict[str, Any]) -> Any:
        if step.op in OPS and step.key not in self._evaluated:
            try:
                return self._by_torch(step, values)
            except FormError:
                if not self._nodes:
                    raise
        found = self._evaluator(step)({name: self._value(name, values) for name in step.inputs if name})
        self.by_reference.add(step.op)
        outputs = iter(found)
        return tuple(next(outputs) if name else None for name in step.outputs)

    def _by_torch(self, step: Step, values: dict[str, Any]) -> Any:
        op = OPS[step.op]
        arguments: list[Any] = []
        for i, name in enumerate(step.inputs):
            value: Any = self._value(name, values) if name else None
            if i in op.told and value is not None:
                if name not in self.known:
                    step.refuse(f"an input {i} that is computed from values")
                with _disable_current_modes():
                    value = value.tolist()
            arguments.append(value)
        return op.function(step, *arguments)

    def _evaluator(self, step: Step) -> Evaluated:
        key = step.key
        if key not in self._evaluated:
            try:
                node = self._nodes[key]
                self._evaluated[key] = Evaluated(node, self._model.opset_import, self._model.ir_version)
            except Exception as error:  # NotImplementedError, and what the evaluator meets
                raise SourceError(
                    f"the ONNX op {step.op} is not taken as a SOURCE ({first_line(error)}); {REMEDY}"
                ) from error
        return self._evaluated[key]

    def _value(self, name: str, values: dict[str, Any]) -> Any:
        place = self._places.get(name)
        return values[name] if place is None else getattr(self, place)

    def _find_known(self) -> set[str]:
        known = set(self._places)
        for step in self.steps:
            if step.op in ("Shape", "Size") or all(not name or name in known for name in step.inputs):
                known.update(filter(None, step.outputs))
        return known

    def _find_last_reads(self) -> list[list[str]]:
        """For each step, the values that no later one reads."""
        last = {name: i for i, step in enumerate(self.steps) for name in (*step.outputs, *step.inputs) if name}
        kept = {*self.output_names, *self._places}
        done: list[list[str]] = [[] for _ in self.steps]
        for name, i in last.items():
            if name not in kept:
                done[i].append(name)
        return done


def _step(node: Any, opset: int) -> Step:
    given = {name: v for name, v in node.attrs.items() if not isinstance(v, gs.Graph)}
    attrs = {name: _tensor(v.name, v.values) if isinstance(v, gs.Constant) else v for name, v in given.items()}
    inputs = tuple("" if t.is_empty() else t.name for t in node.inputs)
    outputs = tuple("" if t.is_empty() else t.name for t in node.outputs)
    return Step(node.op, node.name or "", opset, inputs, outputs, attrs)


def _constants(graph: gs.Graph, *, within: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Initializers and Constant nodes, by the name of their value; those that graphs within read too."""
    outer = vars(graph)["held"].outer if within and "held" in vars(graph) else ()
    inner = {name: t for name, t in all_tensors(graph).items() if name in outer} if within else {}
    for name, tensor in (inner | graph.tensors()).items():
        if isinstance(tensor, gs.Constant):
            yield name, _shared(tensor)
    for node in graph.nodes:
        if node.op == "Constant":
            yield node.outputs[0].name, _value_of(node)


def _value_of(node: Any) -> Tensor:
    (key, value), *_ = node.attrs.items()
    if isinstance(value, gs.Constant):
        return _tensor(node.outputs[0].name, value.values)
    types = {"value_int": torch.int64, "value_ints": torch.int64, "value_float": torch.float32}
    if key not in (*types, "value_floats"):
        raise SourceError(f"the ONNX constant {node.outputs[0].name!r} has a {key}, wanted numbers; {REMEDY}")
    return torch.tensor(value, dtype=types.get(key, torch.float32))


def _shared(constant: Any) -> Tensor:
    """The values of a constant, in the memory that the graph has them in; aligned there first, as torch wants them."""
    values = np.asarray(constant.values)
    if not values.flags.aligned or not values.flags.c_contiguous:
        values = constant.values = np.require(values, requirements=("A", "C"))
    return _tensor(constant.name, values)


def _tensor(name: str, values: Any) -> Tensor:
    array = np.asarray(values)
    bits = array.view(np.int16) if array.dtype.name == "bfloat16" else array
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a map of a file is read-only: nothing here writes
            tensor = torch.from_numpy(bits.reshape(array.shape))
    except TypeError:
        raise SourceError(f"the ONNX constant {name!r} has the type {array.dtype}, wanted numbers; {REMEDY}") from None
    return tensor if bits is array else tensor.view(torch.bfloat16)
