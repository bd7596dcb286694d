"""A plan put into the graph: the plain network."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.utils._pytree import tree_structure

from .build import Builder, Merged
from .choices import Choice, GroupedSum, OneMap
from .graph import attribute, drop_dead_code
from .lift import Linear, Op
from .regions import Planned
from .report import Region


def rewrite(graph_module: fx.GraphModule, plan: Planned) -> "Rewritten":
    """The plain network of a plan, with its own copies of every weight it keeps."""
    planner, choices = plan.planner, plan.choices
    builder = Builder(plan.lifter, planner)
    merged = {node: builder.build(node, choice) for node, choice in choices.items()}
    graph = graph_module.graph
    modules = {m.name: m.module for convs in merged.values() for m in convs}
    for name, module in modules.items():
        graph_module.add_module(name, module)
    now: dict[fx.Node, fx.Node] = {}  # what computes a value that was replaced
    for node in [n for n in graph.nodes if n in choices]:
        replacement = _replacement(graph, node, choices[node], planner.ops[node], merged[node], now)
        if replacement is not None:
            node.replace_all_uses_with(replacement)
            now[node] = replacement
    _flatten_signature(graph)
    drop_dead_code(graph)
    kept: dict[str, object] = {name: module for name, module in modules.items()}
    for node in graph.find_nodes(op="get_attr"):
        value = attribute(graph_module, str(node.target)).detach().clone(memory_format=torch.contiguous_format)
        kept[str(node.target)] = nn.Parameter(value, requires_grad=False) if value.is_floating_point() else value
    for node in graph.find_nodes(op="call_module"):
        if node.target not in kept:  # a layer that was left as it is
            kept[str(node.target)] = copy.deepcopy(graph_module.get_submodule(str(node.target)))
    plain = fx.GraphModule(kept, graph, class_name="Plain")
    plain.eval()
    return Rewritten(plain, builder.regions)


def _flatten_signature(graph: fx.Graph) -> None:
    """Tensors in and a tensor out need no trees: the plain network is then ordinary code, and quick to call."""
    info = getattr(graph._codegen, "pytree_info", None)
    inputs = graph.find_nodes(op="placeholder")
    if info is None or info.in_spec != tree_structure(((0,) * len(inputs), {})):
        return
    output = graph.output_node()
    if info.out_spec == tree_structure(0):
        (output.args,) = [tuple(output.args[0])]  # type: ignore[arg-type]
    elif info.out_spec != tree_structure((0,) * info.out_spec.num_leaves):
        return
    graph.set_codegen(fx.graph.CodeGen())


@dataclass(frozen=True)
class Rewritten:
    """The plain network and the regions it was made of."""

    module: fx.GraphModule
    regions: list[Region]


def _replacement(
    graph: fx.Graph,
    node: fx.Node,
    choice: Choice,
    op: Op,
    merged: Sequence[Merged],
    now: Mapping[fx.Node, fx.Node],
) -> fx.Node | None:
    """What computes the node's value, inserted before it; None where the node itself stays."""
    with graph.inserting_before(node):
        if isinstance(choice, OneMap):
            source = now.get(choice.source, choice.source)
            return source if choice.form.identity else _insert(graph, merged[0], source, node)
        if isinstance(choice, GroupedSum):
            convs = iter(merged)
            total: fx.Node | None = None
            for group in choice.groups:
                if group.source is not None:
                    term = _insert(graph, next(convs), now.get(group.source, group.source), node)
                else:
                    value, weight = group.terms[0]
                    value = now.get(value, value)
                    term = value if weight == 1 else graph.call_function(torch.mul, (value, weight))
                total = term if total is None else graph.call_function(torch.add, (total, term))
            return total
        return now.get(op.source, op.source) if isinstance(op, Linear) and op.form.identity else None


def _insert(graph: fx.Graph, merged: Merged, source: fx.Node, node: fx.Node) -> fx.Node:
    aten = torch.ops.aten
    for extend in merged.extends:
        if extend.mode == "constant":
            source = graph.call_function(aten.constant_pad_nd.default, (source, list(extend.pads), 0.0))
        else:
            source = graph.call_function(aten.pad.default, (source, list(extend.pads), extend.mode))
    result = graph.create_node("call_module", merged.name, (source,))
    result.meta = {key: node.meta[key] for key in ("val", "nn_module_stack") if key in node.meta}
    return result
