"""What is no op of ours, evaluated by the onnx package's reference evaluator, node by node: right, and slow."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import first_line

_NARROW = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_HALF = (torch.float16, torch.bfloat16)


def names_read(node: NodeProto) -> tuple[str, ...]:
    """The values that a node reads: its inputs, "" for one left out, and what graphs within it take from outside."""
    return (*node.input, *dict.fromkeys(name for graph in _inner(node) for name in _free(graph)))


class Evaluated:
    """One node as a function of the values it reads, by name, in the types that they have.

    Where PyTorch computes in float64, as `widened` has it, so does the node: its own constants and casts, too.

    Raises NotImplementedError, or what the evaluator raises, for an op that it does not know.
    """

    def __init__(self, node: NodeProto, opsets: Sequence[Any], ir_version: int) -> None:
        self._node, self._opsets, self._ir_version = node, opsets, ir_version
        self._names = [name for name in dict.fromkeys(names_read(node)) if name]
        self._runs: dict[bool, Any] = {False: self._evaluator(node)}

    def __call__(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Its outputs: tensors, or lists of them for sequences. Raises RuntimeError where the evaluator fails."""
        wide = torch.get_default_dtype() == torch.float64
        if wide not in self._runs:
            self._runs[wide] = self._evaluator(_widened(self._node))
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            feeds = {name: _array(values[name], wide=wide) for name in self._names}
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    found = self._runs[wide].run(None, feeds)
            except Exception as error:  # whatever NumPy and the evaluator raise
                raise RuntimeError(f"onnx's reference evaluator: {first_line(error)}") from error
            return tuple(_tensor(each) for each in found)

    def _evaluator(self, node: NodeProto) -> Any:
        from onnx.reference import ReferenceEvaluator

        inputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in self._names]
        outputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "one", inputs, outputs)
        model = onnx.helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)
        return ReferenceEvaluator(model)


def _inner(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _free(graph: GraphProto) -> Iterator[str]:
    """Names that a graph reads and does not make."""
    made = {t.name for t in (*graph.input, *graph.initializer)} | {name for n in graph.node for name in n.output}
    read = [name for node in graph.node for name in names_read(node)] + [t.name for t in graph.output]
    yield from (name for name in dict.fromkeys(read) if name and name not in made)


def _widened(node: NodeProto) -> NodeProto:
    """The node with what is a float in it as float64."""
    wide = NodeProto()
    wide.CopyFrom(node)
    for attribute in wide.attribute:
        if attribute.type == AttributeProto.TENSOR:
            _widen(attribute.t)
        elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _NARROW:
            attribute.i = TensorProto.DOUBLE
        elif wide.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            values = np.array(attribute.f if attribute.name == "value_float" else attribute.floats, np.float64)
            attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(values)))
    for graph in _inner(wide):
        for tensor in graph.initializer:
            _widen(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _NARROW:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        nodes = [_widened(inner) for inner in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    return wide


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _NARROW:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _array(value: Any, *, wide: bool) -> Any:
    if not isinstance(value, Tensor):
        return None if value is None else [_array(each, wide=wide) for each in value]
    value = value.detach()
    if wide and value.is_floating_point():
        return value.double().numpy()
    if value.dtype == torch.bfloat16:
        import ml_dtypes

        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _tensor(value: Any) -> Any:
    if isinstance(value, list):
        return [_tensor(each) for each in value]
    array = np.array(value, order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
