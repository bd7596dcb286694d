"""A plan put into the graph: the plain network."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_structure

from .build import Builder, Merged
from .choices import Choice, GroupedSum, OneMap
from .graph import attribute, constants, drop_dead_code
from .lift import Lifter, Linear, Op
from .regions import Planned
from .report import Region

SMALL = 1 << 18  # elements of a computed constant that is stored whatever it is made of


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
    computed = _computed_once(graph_module, plan.lifter)
    drop_dead_code(graph)
    kept: dict[str, object] = {name: module for name, module in modules.items()}
    copies: dict[object, Tensor] = {}  # tied weights, which have several names, stay tied
    for node in graph.find_nodes(op="get_attr"):
        name = str(node.target)
        value = computed[name] if name in computed else attribute(graph_module, name).detach()
        memory = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else name
        if memory not in copies:
            mine = value.clone(memory_format=torch.contiguous_format)
            copies[memory] = nn.Parameter(mine, requires_grad=False) if value.is_floating_point() else mine
        kept[name] = copies[memory]
    for node in graph.find_nodes(op="call_module"):
        if node.target not in kept:  # a layer that was left as it is
            kept[str(node.target)] = copy.deepcopy(graph_module.get_submodule(str(node.target)))
    plain = fx.GraphModule(kept, graph, class_name="Plain")
    plain.eval()
    return Rewritten(plain, builder.regions)


def _computed_once(graph_module: fx.GraphModule, lifter: Lifter) -> dict[str, Tensor]:
    """Compute what depends on parameters alone, in float64, and put each result in its place under a name of its own.

    One larger than all that it is made of stays as it is: a mask, a table of positions.
    """
    graph = graph_module.graph
    constant = constants(graph)
    results: dict[str, Tensor] = {}
    for node in [n for n in graph.nodes if n in constant and n.op != "get_attr"]:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or constant.issuperset(node.users):
            continue
        leaves = _leaves(node)
        if value.numel() > max(SMALL, sum(n.meta["val"].numel() for n in leaves)):
            continue
        result = lifter.constant(node)
        assert result is not None
        alike = [str(n.target) for n in leaves if n.meta["val"].shape == value.shape]
        names = itertools.chain(alike[:1], (f"constant_{i}" for i in itertools.count()))
        name = next(n for n in names if n not in results and _is_free(graph_module, n, constant))
        results[name] = result.to(value.dtype).contiguous()
        if name not in alike and not hasattr(graph_module, name):
            graph_module.register_buffer(name, results[name])
        with graph.inserting_before(node):
            stored = graph.create_node("get_attr", name)
        stored.meta["val"] = value
        constant.add(stored)
        node.replace_all_uses_with(stored)
    return results


def _leaves(node: fx.Node) -> list[fx.Node]:
    """The parameters and buffers that a constant is made of."""
    seen, stack = dict[fx.Node, None](), [node]
    while stack:
        at = stack.pop()
        if at not in seen:
            seen[at] = None
            stack.extend(at.all_input_nodes)
    return [n for n in seen if n.op == "get_attr"]


def _is_free(graph_module: fx.GraphModule, name: str, constant: set[fx.Node]) -> bool:
    """Whether nothing has the name, or only constants read what does."""
    readers = [n for n in graph_module.graph.find_nodes(op="get_attr") if n.target == name]
    return all(constant.issuperset(n.users) for n in readers) and (bool(readers) or not hasattr(graph_module, name))


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
