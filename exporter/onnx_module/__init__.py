"""An ONNX graph as an nn.Module: what eager PyTorch is to a network of its own, this is to one that came as a file."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import PlainconvError, SourceError, first_line
from . import layout, pointwise, resize, sums, windows
from .base import OPS, REMEDY, Step

__all__ = ["OPS", "REMEDY", "OnnxModule", "module_from_onnx"]
del layout, pointwise, resize, sums, windows  # imported for what they register

MIN_OPSET = 7
"""Before it, ops broadcast as their attributes say."""


def module_from_onnx(graph: gs.Graph) -> "OnnxModule":
    """The sorted `graph` as a module in eval mode that evaluates it node by node; it shares the graph's weights.

    It takes the inputs and returns the outputs in the graph's order, one output as a tensor, several as a tuple.

    Raises:
        SourceError: the graph has an op, or a type of weights, that is not taken.

    """
    unknown = sorted({n.op for n in graph.nodes if n.op not in (*OPS, "Constant") or (n.domain or "") not in DOMAINS})
    if unknown:
        more = f" (and {len(unknown) - 1} more ops)" if unknown[1:] else ""
        raise SourceError(f"the ONNX op {unknown[0]}{more} is not taken as a SOURCE; {REMEDY}")
    if graph.opset < MIN_OPSET:
        raise SourceError(f"the ONNX file has opset {graph.opset}, wanted {MIN_OPSET} or later; {REMEDY}")
    module = OnnxModule(
        [_step(node, graph.opset) for node in graph.nodes if node.op != "Constant"],
        dict(_constants(graph)),
        [t.name for t in graph.inputs],
        [t.name for t in graph.outputs],
        {t.name for node in graph.nodes if node.op == "BatchNormalization" for t in node.inputs[3:5]},
    )
    return module.eval()


DOMAINS = ("", "ai.onnx")


class OnnxModule(nn.Module):
    """See `module_from_onnx`.

    What depends on no input, or on the shapes of inputs alone, is *known*: it is computed from real tensors even where
    the module is evaluated without data, so that shapes computed in the graph are numbers there too.

    `batch` makes it refuse other sizes of the first axis of its inputs, as a graph made for one size must.
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
        self.batch: int | None = None
        self._watch: Callable[[str, Tensor], Tensor] | None = None
        self._places: dict[str, str] = {}
        for i, (name, values) in enumerate(constants.items()):
            place = self._places[name] = f"constant_{i}"
            if values.is_floating_point() and values.dim() and name not in statistics:
                self.register_parameter(place, nn.Parameter(values, requires_grad=False))
            else:
                self.register_buffer(place, values)
        self._known = self._find_known()
        self._last_reads = self._find_last_reads()

    def shapes(self, *inputs: Tensor) -> dict[str, tuple[int, ...]]:
        """The shape of every value for inputs of these shapes and types; nothing but shapes is computed."""
        found: dict[str, tuple[int, ...]] = {}

        def note(name: str, value: Tensor) -> Tensor:
            found[name] = tuple(value.shape)
            return value

        with self.watched(note), FakeTensorMode(allow_non_fake_inputs=True) as fake:
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
        if self.batch is not None and any(x.dim() and x.shape[0] != self.batch for x in inputs):
            raise RuntimeError(f"the graph is made for a batch of {self.batch}")
        values: dict[str, Tensor] = dict(zip(self.input_names, inputs, strict=True))
        for step, done in zip(self.steps, self._last_reads, strict=True):
            made = zip(step.outputs, self._results(step, values), strict=False)
            values.update((name, value) for name, value in made if name)
            if self._watch is not None:
                values |= {name: self._watch(name, values[name]) for name in step.outputs if name in values}
            for name in done:
                del values[name]
        outputs = tuple(self._value(name, values) for name in self.output_names)
        return outputs[0] if len(outputs) == 1 else outputs

    def _results(self, step: Step, values: dict[str, Tensor]) -> tuple[Tensor, ...]:
        try:
            if step.outputs[0] in self._known:
                with _disable_current_modes():
                    found = self._call(step, values)
            else:
                found = self._call(step, values)
        except PlainconvError:
            raise
        except Exception as error:  # whatever torch raises, the node is to be named
            raise RuntimeError(f"{step}: {first_line(error)}") from error
        return found if isinstance(found, tuple) else (found,)

    def _call(self, step: Step, values: dict[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        op = OPS[step.op]
        arguments: list[Any] = []
        for i, name in enumerate(step.inputs):
            value: Any = self._value(name, values) if name else None
            if i in op.told and value is not None:
                if name not in self._known:
                    step.refuse(f"an input {i} that is computed from values")
                with _disable_current_modes():
                    value = value.tolist()
            arguments.append(value)
        return op.function(step, *arguments)

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor:
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
    attrs = {name: _tensor(v.name, v.values) if isinstance(v, gs.Constant) else v for name, v in node.attrs.items()}
    inputs = tuple("" if t.is_empty() else t.name for t in node.inputs)
    outputs = tuple("" if t.is_empty() else t.name for t in node.outputs)
    return Step(node.op, node.name or "", opset, inputs, outputs, attrs)


def _constants(graph: gs.Graph) -> Iterator[tuple[str, Tensor]]:
    """Initializers and Constant nodes, by the name of their value."""
    for name, tensor in graph.tensors().items():
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
