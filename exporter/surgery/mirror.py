"""An ONNX graph as ATen calls, for the kernel algebra: one value for each ONNX value.

What has no such call is an opaque node, which bounds the regions. Weights are shared with the graph.
"""

import warnings
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, fx, nn

from ..reparam.regions import Planned
from .edit import values64
from .onnx_ops import TRANSLATIONS, known
from .shapes import result_of

DTYPES = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


def opaque(*values: object) -> Tensor:
    """Stands for an ONNX node without an ATen call; never run."""
    raise NotImplementedError


class Mirror:
    """The ONNX graph as ATen calls; a `Scribe`."""

    def __init__(self, graph: gs.Graph, sizes: dict[str, list[int]], untranslated: set[int]) -> None:
        self.root, self.calls = nn.Module(), fx.Graph()
        self.sizes = sizes
        self.values: dict[int, fx.Node] = {}
        self.tensors: dict[fx.Node, Any] = {}
        self.parts: dict[int, list[fx.Node]] = {}
        self._current: list[fx.Node] = []
        self._results: dict[tuple[Any, str], Tensor | None] = {}
        for tensor in graph.inputs:
            self._bind(tensor, self.calls.placeholder(f"input_{len(self.values)}"))
        for node in graph.nodes:
            self._node(node, id(node) not in untranslated)
        self.calls.output(tuple(self.value(t) for t in graph.outputs))

    def _node(self, node: Any, translated: bool) -> None:
        self._current = []
        self._path = node.name.strip("/").replace("/", ".").removesuffix(f".{node.op}")
        translate = TRANSLATIONS.get(node.op) if translated and (node.domain or "") in ("", "ai.onnx") else None
        single = sum(bool(t.outputs) for t in node.outputs[1:]) == 0 and node.outputs
        result = translate(self, node) if translate and single and self._is_float(node.outputs[0]) else None
        if result is None or not self._current or "val" not in result.meta:
            for call in reversed(self._current):
                self.calls.erase_node(call)
            self._current = []
            read = [self.value(t) for t in (*node.inputs, *_read_within(node)) if not t.is_empty()]
            for tensor in node.outputs:
                self._bind(tensor, self.calls.call_function(opaque, tuple(read)))
            return
        self._bind(node.outputs[0], result)
        self.parts[id(node)] = self._current

    def _is_float(self, tensor: Any) -> bool:
        return tensor.name in self.sizes and not isinstance(tensor.dtype, int) and np.dtype(tensor.dtype) in DTYPES

    def _bind(self, tensor: Any, node: fx.Node) -> None:
        self.values[id(tensor)] = node
        self.tensors[node] = tensor
        if "val" not in node.meta and tensor.dtype is not None and self._is_float(tensor):
            dtype = DTYPES[np.dtype(tensor.dtype)]
            node.meta["val"] = torch.empty(self.sizes[tensor.name], dtype=dtype, device="meta")

    def value(self, tensor: Any) -> fx.Node:
        """The value of an ONNX tensor; a constant's numbers are shared, not copied."""
        if id(tensor) not in self.values:
            if not hasattr(tensor, "values") or not known(tensor):
                self._bind(tensor, self.calls.call_function(opaque, ()))
                return self.values[id(tensor)]
            name = f"constant_{len(self.values)}"
            self.root.register_buffer(name, _torch(tensor))
            node = self.calls.get_attr(name)
            node.meta["val"] = torch.empty(tuple(tensor.shape), dtype=DTYPES[np.dtype(tensor.dtype)], device="meta")
            self._bind(tensor, node)
        return self.values[id(tensor)]

    def call(self, target: Any, *args: Any) -> fx.Node:
        """Add an ATen call; its shape is worked out, or comes from running it on meta tensors."""
        node = self.calls.call_function(target, args)
        node.meta["nn_module_stack"] = {"": (self._path, "")}
        self._current.append(node)
        found = self._result(target, args)
        if found is not None:
            node.meta["val"] = found
        return node

    def _result(self, target: Any, args: tuple[Any, ...]) -> Tensor | None:
        """What the call gives, without numbers; None where a value without a known shape is among the arguments.

        A network repeats itself: each call is run once for all that are like it.
        """
        key = (target, repr(fx.node.map_arg(args, _type)))
        if key not in self._results:
            values = fx.node.map_arg(args, lambda n: n.meta.get("val"))
            try:
                found = result_of(target, values)
                self._results[key] = target(*values) if found is None else found
            except Exception:  # whatever an op makes of None
                self._results[key] = None
        return self._results[key]

    def rank(self, tensor: Any) -> int | None:
        """How many axes the tensor has, or None."""
        return len(tensor.shape) if tensor.shape is not None else None

    def half_lifted(self, plan: Planned) -> set[int]:
        """The ONNX nodes that are several calls of which some are not affine: they must stay whole."""
        affine = {*plan.planner.ops, *plan.lifter.constants}
        return {key for key, calls in self.parts.items() if len(calls) > 1 and not affine.issuperset(calls)}


def _read_within(node: Any) -> list[Any]:
    """What graphs within the node (branches, loop bodies) read of the graph around it, and more."""
    inner = list(node.subgraphs(recursive=True)) if node.attrs else []
    made = {id(t) for g in inner for n in g.nodes for t in n.outputs}
    read = [t for g in inner for tensors in (g.outputs, *(n.inputs for n in g.nodes)) for t in tensors]
    return [t for t in read if id(t) not in made]


def _type(node: fx.Node) -> str:
    value = node.meta.get("val")
    return "unknown" if value is None else f"{value.dtype} {tuple(value.shape)}"


def _torch(tensor: Any) -> Tensor:
    values = values64(tensor) if hasattr(tensor, "exact") else np.asarray(tensor.values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array may be a read-only map of a file; nobody writes into it
        return torch.from_numpy(np.ascontiguousarray(values))
