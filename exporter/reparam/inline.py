"""What forward runs under a mode of its own (autocast, no_grad) as the plain ops in it."""

from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from .graph import attribute_of, is_cast

AUTOCAST = torch.ops.higher_order.wrap_with_autocast
MODES = (AUTOCAST, torch.ops.higher_order.wrap_with_set_grad_enabled)


def inline_modes(graph_module: fx.GraphModule) -> tuple[str, ...]:
    """Put the body of each such region in its place; the dtypes, by name, that autocast was switched on for.

    Gradients do not matter to the result. Autocast does: what it would have narrowed is computed in the dtype of the
    weights, here and behind it.
    """
    graph, narrowed = graph_module.graph, list[str]()
    found = _regions(graph)
    while found:
        for node in found:
            if node.target is AUTOCAST and node.args[2]:
                narrowed.append(str(node.args[1]).removeprefix("torch."))
            _inline(graph_module, node)
        found = _regions(graph)
    if narrowed:
        _settle_dtypes(graph, {getattr(torch, name) for name in narrowed})
    return tuple(dict.fromkeys(narrowed))


def _regions(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function" and node.target in MODES]


def _inline(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """The nodes of a region before it; whoever reads its results, a tuple, reads theirs."""
    place, inputs = next(
        (a, node.args[i + 1 :]) for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr"
    )
    body = attribute_of(graph_module, str(place.target))
    assert isinstance(body, fx.GraphModule)
    now: dict[fx.Node, Any] = dict(zip(body.graph.find_nodes(op="placeholder"), inputs, strict=True))
    with graph_module.graph.inserting_before(node):
        for inner in body.graph.find_nodes(op="get_attr"):
            now[inner] = graph_module.graph.create_node("get_attr", _adopted(graph_module, body, str(inner.target)))
            now[inner].meta = dict(inner.meta)
        results = graph_module.graph.graph_copy(body.graph, now)
    if not isinstance(results, (tuple, list)):
        results = (results,)
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        graph_module.graph.erase_node(user)
    graph_module.graph.erase_node(node)


def _adopted(graph_module: fx.GraphModule, body: fx.GraphModule, target: str) -> str:
    """The name under which the whole graph has what the region's body calls `target`."""
    value, name = attribute_of(body, target), target.replace(".", "_")
    while hasattr(graph_module, name) and getattr(graph_module, name) is not value:
        name += "_"
    setattr(graph_module, name, value)
    return name


def _settle_dtypes(graph: fx.Graph, narrow: set[torch.dtype]) -> None:
    """Every value in the dtype that its op gives now; a cast to one that autocast was switched on for is none."""
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if is_cast(node) and value.dtype in narrow:
            node.replace_all_uses_with(node.args[0])
            continue
        leaves = [n.meta.get("val") for n in node.all_input_nodes]
        mode = next((m for v in (value, *leaves) if (m := getattr(v, "fake_mode", None))), FakeTensorMode())
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val"))
        if isinstance(value, (Tensor, tuple, list)) and all(v is not None for v in leaves):
            mode.allow_non_fake_inputs = True
            with mode:
                node.meta["val"] = node.target(*args, **kwargs)
