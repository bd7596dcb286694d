"""A network as a graph by torch.fx, for what torch.export cannot trace.

Symbolic tracing leaves calls of modules, functions and methods. Each that stands for ATen calls whose arguments do not
depend on a size becomes those calls, which the lifter knows; any other stays as it is and bounds the regions. Nothing
here makes writes in place functional by itself: one is only taken for its pure form where nobody reads what it
overwrote, which the storages of one real run tell.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from ..errors import ReparamError
from .graph import attribute
from .in_place import pure_op, writes
from .lift import RULES


def symbolic_graph(module: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """The module's graph with its affine calls as ATen calls. It shares the module's parameters and buffers.

    Raises ReparamError where a write in place cannot be proven harmless, and what torch.fx raises.
    """
    graph_module = fx.symbolic_trace(module)
    run = _Run(graph_module)
    run.run(*example)
    inline = _Inliner(graph_module, run)
    for node in list(graph_module.graph.nodes):
        if node.op in ("call_module", "call_function", "call_method"):
            inline.node(node)
    graph_module.recompile()
    return graph_module


class _Run(fx.Interpreter):
    """One real forward: shapes and dtypes of all values, which nodes share storage and which write into it."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)  # a freed storage could be taken for another
        self.storages: dict[fx.Node, set[int]] = {}
        self.written: dict[fx.Node, set[int]] = {}
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Execute one node and note what it did."""
        inputs = [t for a in n.all_input_nodes for t in _tensors(self.env[a])]
        versions = [t._version for t in inputs]
        value = super().run_node(n)
        self.written[n] = {_storage(t) for t, old in zip(inputs, versions, strict=True) if t._version != old}
        self.storages[n] = {_storage(t) for t in _tensors(value)}
        self.values[n] = value
        if isinstance(value, Tensor):
            n.meta["val"] = value.detach().to("meta")
        return value


def _tensors(value: Any) -> list[Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Inliner:
    """Puts ATen calls in the place of nodes."""

    def __init__(self, graph_module: fx.GraphModule, run: _Run) -> None:
        self.graph_module, self.graph, self.ran = graph_module, graph_module.graph, run
        self.order = {node: i for i, node in enumerate(self.graph.nodes)}
        self.names = {id(t): n for n, t in (*graph_module.named_parameters(), *graph_module.named_buffers())}

    def node(self, node: fx.Node) -> None:
        """Inline one node, or leave it. Raises ReparamError for a write in place that is not harmless."""
        if self.ran.written[node]:
            self._refuse_if_read_later(node)
        traced = self._aten(node)
        if traced is None:
            if self.ran.written[node]:
                raise _in_place(node, "is no ATen call whose pure form is known")
            return
        replacement = self._copy(node, traced)
        replacement.meta = {**node.meta, **replacement.meta}
        node.replace_all_uses_with(replacement)
        self.graph.erase_node(node)
        self.order[replacement] = self.order.pop(node)
        self.ran.values[replacement] = self.ran.values.pop(node)
        self.ran.storages[replacement] = self.ran.storages.pop(node)

    def _refuse_if_read_later(self, node: fx.Node) -> None:
        """Nothing made before the write may be read after it where it shares the storage: the write would show."""
        written, at = self.ran.written[node], self.order[node]
        for earlier, i in self.order.items():
            if i >= at or not self.ran.storages[earlier] & written:
                continue
            if earlier.op == "get_attr":
                raise _in_place(node, "writes into a parameter or buffer")
            later = next((u for u in earlier.users if self.order.get(u, at) > at), None)
            if later is not None:
                raise _in_place(node, f"overwrites what {later.name} reads later")

    def _aten(self, node: fx.Node) -> fx.GraphModule | None:
        """The node as a graph of ATen calls over its tensor inputs; None where it is not one of size-free calls."""
        inputs = node.all_input_nodes
        values = [self.ran.values[n] for n in inputs]
        if not all(isinstance(v, Tensor) for v in values) or not isinstance(self.ran.values[node], Tensor):
            return None
        try:
            traced = make_fx(
                _function(self.graph_module, node), tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True
            )(*values)
        except Exception:  # an op of the user's own, without a kernel for fake tensors
            return None
        calls = [n for n in traced.graph.nodes if n.op == "call_function"]
        return traced if calls and all(map(_size_free, calls)) else None

    def _copy(self, node: fx.Node, traced: fx.GraphModule) -> fx.Node:
        """The calls of `traced` before `node`; returns the one that gives its value."""
        now: dict[fx.Node, fx.Node] = dict(
            zip(traced.graph.find_nodes(op="placeholder"), node.all_input_nodes, strict=True)
        )
        with self.graph.inserting_before(node):
            for inner in traced.graph.nodes:
                if inner.op == "get_attr":
                    now[inner] = self._weight(attribute(traced, str(inner.target)))
                elif inner.op == "call_function":
                    now[inner] = self.graph.node_copy(inner, now.__getitem__)
                    pure = pure_op(inner.target) if writes(inner) else None
                    now[inner].target = pure or inner.target
                    now[inner].meta = {"val": inner.meta["val"].to("meta"), "nn_module_stack": _stack(node)}
        (result,) = traced.graph.output_node().all_input_nodes
        return now[result]

    def _weight(self, value: Tensor) -> fx.Node:
        name = self.names.get(id(value))
        if name is None:
            name = f"_constant_{len(self.names)}"
            self.graph_module.register_buffer(name, value)
            self.names[id(value)] = name
        return self.graph.get_attr(name)


def _function(graph_module: fx.GraphModule, node: fx.Node) -> Callable[..., Any]:
    """The node as a function of its tensor inputs, in the order of `all_input_nodes`."""

    def call(*tensors: Tensor) -> Any:
        given = dict(zip(node.all_input_nodes, tensors, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
        if node.op == "call_module":
            return graph_module.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    return call


def _size_free(call: fx.Node) -> bool:
    """Whether the call's arguments hold at any size: the lifter knows the op, or takes no integers."""
    if not isinstance(call.target, torch._ops.OpOverload):
        return False
    pure = pure_op(call.target) if writes(call) else call.target
    if pure is None:
        return False
    if pure.overloadpacket.__name__ in RULES:
        return True
    return not any(isinstance(a, int) and not isinstance(a, bool) for a in tree_leaves((call.args, call.kwargs)))


def _stack(node: fx.Node) -> dict[str, Any]:
    """The modules the node belongs to, outermost first, as torch.export gives them: key → (path, type)."""
    stack = dict(node.meta.get("nn_module_stack") or {})
    if node.op == "call_module":
        stack[str(node.target)] = (str(node.target), nn.Module)
    return stack


def _in_place(node: fx.Node, why: str) -> ReparamError:
    return ReparamError(
        f"torch.fx: {node.name} writes in place and {why}; write that line of the network without inplace"
    )
