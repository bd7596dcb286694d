"""A traced graph made ready for lifting: what a tracer leaves in it that no kernel needs, and blocks in disguise."""

import operator

import torch
from torch import Tensor, fx

from .graph import arguments, constants, draws_random_numbers, drop_dead_code, is_cast, is_per_channel, sizes
from .lift import Lifter, Linear
from .rules.layout import TO_THE_END
from .scatters import concats_from_scatters

aten = torch.ops.aten
SAME = 1e-9  # of a border's value and the shift it stands for, both computed in float64
_DROPOUTS = (
    aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default
)  # fmt: skip
_METADATA_CHECKS = {aten._assert_tensor_metadata.default, aten._assert_scalar.default, torch._assert}


def tidy(graph_module: fx.GraphModule) -> None:
    """Change `graph_module` in place to an equal graph; pads by hand are sought while writes are still slices."""
    steps = (
        _drop_checks,
        _drop_casts,
        _switch_off,
        _restore_batch_norms,
        _free_views,
        _drop_full_slices,
        _pad_before_shift,
    )
    for step in (*steps, concats_from_scatters):
        step(graph_module)
        drop_dead_code(graph_module.graph)
    graph_module.recompile()


def calls(graph: fx.Graph, *targets: object) -> list[fx.Node]:
    """The nodes that call one of the targets, in graph order."""
    return [node for node in graph.nodes if node.op == "call_function" and node.target in targets]


def _drop_checks(graph_module: fx.GraphModule) -> None:
    """Assertions on shapes and dtypes: the trace has answered them."""
    for node in calls(graph_module.graph, *_METADATA_CHECKS):
        graph_module.graph.erase_node(node)


def _drop_casts(graph_module: fx.GraphModule) -> None:
    """A cast to the dtype and device that the value has."""
    for node in [n for n in graph_module.graph.nodes if is_cast(n)]:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        before, after = source.meta.get("val"), node.meta.get("val")
        if not isinstance(before, Tensor) or not isinstance(after, Tensor):
            continue
        if (before.dtype, before.device) == (after.dtype, after.device):
            node.replace_all_uses_with(source)
            graph_module.graph.erase_node(node)


def _switch_off(graph_module: fx.GraphModule) -> None:
    """What draws random numbers in training alone: a dropout is its input, an RReLU leaks by the mean of its slopes."""
    graph = graph_module.graph
    for node in calls(graph, *_DROPOUTS, aten.rrelu.default):
        if draws_random_numbers(node):
            continue
        if node.target is aten.rrelu.default:
            given = arguments(node)
            node.target, node.kwargs = aten.leaky_relu.default, {}
            node.args = (given["self"], (given["lower"] + given["upper"]) / 2)
        else:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def _restore_batch_norms(graph_module: fx.GraphModule) -> None:
    """Batch norm on running statistics as one op again; decomposed, it is the first of a tuple."""
    graph = graph_module.graph
    for node in calls(graph, aten._native_batch_norm_legit_no_training.default):
        source, weight, bias, mean, var, momentum, eps = node.args
        for result in list(node.users):
            if result.target is not operator.getitem or result.args[1] != 0:
                continue
            with graph.inserting_before(result):
                args = (source, weight, bias, mean, var, False, momentum, eps, False)
                norm = graph.call_function(aten.batch_norm.default, args)
            norm.meta = {**node.meta, **result.meta}
            result.replace_all_uses_with(norm)
            graph.erase_node(result)


def _free_views(graph_module: fx.GraphModule) -> None:
    """A view demands a memory layout, which a merged convolution or a dropped copy may not keep; a reshape does not."""
    for node in calls(graph_module.graph, aten.view.default, aten._unsafe_view.default):
        node.target = aten.reshape.default


def _drop_full_slices(graph_module: fx.GraphModule) -> None:
    """A slice of everything is the value; a scatter over everything is what is scattered."""
    for node in calls(graph_module.graph, aten.slice.Tensor, aten.slice_scatter.default):
        given = arguments(node)
        if _span(node) == (0, TO_THE_END):
            value = given["src"] if "src" in given else given["self"]
            node.replace_all_uses_with(value)
            graph_module.graph.erase_node(node)


def _span(node: fx.Node) -> tuple[int, int] | None:
    """(start, end) of a slice or slice_scatter with step 1, an open end as TO_THE_END; None where it is computed."""
    given = arguments(node)
    start, end = given["start"] or 0, TO_THE_END if given["end"] is None else given["end"]
    if given["step"] != 1 or not isinstance(start, int) or not isinstance(end, int):
        return None
    return start, min(end, TO_THE_END)


# ------------------------------------------------------------------ a margin that is written


def _pad_before_shift(graph_module: fx.GraphModule) -> None:
    """pad_t(s·x + t) = s·pad₀(x) + t: padding by its own shift commutes with a norm.

    Given  a norm (or another shift per channel), padded, its margin then overwritten with the shift itself, slice by
           slice (the padded norm of Diverse Branch Blocks)
    Result the norm of the zero-padded input
    """
    graph = graph_module.graph
    constant = constants(graph)
    scatters = calls(graph, aten.slice_scatter.default)
    for node in reversed(scatters):
        if all(user in scatters for user in node.users):
            continue  # one of several writes: the last of them stands for all
        found = _margin(node, constant)
        if found is None:
            continue
        pad, values = found
        lifter = Lifter(graph_module)
        shifted = arguments(pad)["self"]
        op = lifter.lift(shifted)
        if not isinstance(op, Linear) or not op.form.pointwise or not all(axis.pointwise for axis in op.form.axes):
            continue
        shift = op.build().bias
        if not all(_same(lifter.constant(value), shift) for value in values):
            continue
        with graph.inserting_before(node):
            padded = graph.call_function(aten.constant_pad_nd.default, (op.source, arguments(pad)["pad"], 0.0))
            now = {op.source: padded}
            result = graph.node_copy(shifted, lambda n, now=now: now.get(n, n))  # type: ignore[misc]
        padded.meta = {**pad.meta}
        result.meta = {**shifted.meta, "val": node.meta["val"]}
        node.replace_all_uses_with(result)


def _same(written: Tensor | None, shift: Tensor) -> bool:
    if written is None or written.numel() not in (1, shift.numel()):
        return False
    return bool(((written.double().reshape(-1) - shift).abs() <= SAME * (1 + shift.abs())).all())


def _margin(node: fx.Node, constant: set[fx.Node]) -> tuple[fx.Node, set[fx.Node]] | None:
    """The pad whose whole margin the writes ending in `node` fill with constants per channel, and those constants."""
    written: dict[tuple[int, bool], int] = {}
    values: set[fx.Node] = set()
    shape = sizes(node)
    while node.target is aten.slice_scatter.default:
        given, span = arguments(node), _span(node)
        value = _written(given["src"])
        if span is None or shape is None or value not in constant or not is_per_channel(value, len(shape)):
            return None
        dim, (start, end) = given["dim"] % len(shape), span
        at_end = start < 0
        if end != TO_THE_END if at_end else start != 0 or end <= 0:
            return None
        written[dim, at_end] = -start if at_end else end
        values.add(value)
        node = given["self"]
    if node.target not in (aten.constant_pad_nd.default, aten.pad.default) or shape is None:
        return None
    given = arguments(node)
    made = {(len(shape) - 1 - i // 2, bool(i % 2)): width for i, width in enumerate(given["pad"]) if width != 0}
    zeros = given.get("mode", "constant") == "constant" and given["value"] in (None, 0)
    return (node, values) if zeros and made == written else None


def _written(node: fx.Node) -> fx.Node:
    """What a broadcast copy writes."""
    while node.target in (aten.copy.default, aten.expand.default):
        node = node.args[1] if node.target is aten.copy.default else node.args[0]  # type: ignore[assignment]
    return node
