"""Writes into slices, as a trace makes them pure, as concatenations of what is written and what is left.

    x[a:b] = y   →   [x[:a], y, x[b:]]

ONNX has a slow general op for the former, ScatterND, and engines fuse nothing across it.
"""

from typing import Any, NamedTuple

import torch
from torch import fx

from .graph import arguments, is_static

aten = torch.ops.aten


class _Piece(NamedTuple):
    """Positions start to end of a value's axis: those of `node` from `first` on, all that it has if `whole`."""

    start: int
    end: int
    node: fx.Node
    first: int
    whole: bool


def concats_from_scatters(graph_module: fx.GraphModule) -> None:
    """Change the graph in place, wherever the axis has a fixed size and the slice is at fixed positions.

    Given  a chain of writes into slices of one axis, and reads of slices between them
    Result one concatenation for the last; what is read between is the piece itself where it is one
    """
    graph = graph_module.graph
    pieces: dict[fx.Node, tuple[int, list[_Piece]]] = {}
    for node in list(graph.nodes):
        if node.target in (aten.slice_scatter.default, aten.select_scatter.default):
            _scatter(node, pieces)
        elif node.target in (aten.slice.Tensor, aten.select.int):
            _read(graph, node, pieces)
    for node, (dim, parts) in pieces.items():
        with graph.inserting_before(node):
            joined = [_value(graph, part, dim) for part in parts if part.end > part.start]
            result = _call(graph, node, aten.cat.default, joined, dim) if len(joined) > 1 else joined[0]
        node.replace_all_uses_with(result)


def _span(node: fx.Node, shape: torch.Size) -> tuple[int, int, int] | None:
    """(axis, start, end) of a slice or of one position; None where it is computed or skips positions."""
    given = arguments(node)
    dim, size = given["dim"] % len(shape), shape[given["dim"]]
    if not isinstance(size, int) or given.get("step", 1) != 1:
        return None
    if "index" in given:
        start, end = given["index"], given["index"] + 1 or None
    else:
        start, end = given["start"], given["end"]
    if not is_static(start, end):
        return None
    start, end, _ = slice(start, end).indices(size)
    return dim, start, max(start, end)


def _scatter(node: fx.Node, pieces: dict[fx.Node, tuple[int, list[_Piece]]]) -> None:
    given, value = arguments(node), node.meta.get("val")
    span = _span(node, value.shape) if isinstance(value, torch.Tensor) else None
    if span is None or not isinstance(value, torch.Tensor):
        return
    (dim, start, end), below, written = span, given["self"], given["src"]
    if written.meta["val"].dtype != value.dtype:
        return
    known = pieces.get(below)
    parts = known[1] if known and known[0] == dim else [_Piece(0, value.shape[dim], below, 0, True)]
    left = [_cut(p, p.start, min(p.end, start)) for p in parts] + [_cut(p, max(p.start, end), p.end) for p in parts]
    mine = _Piece(start, end, written, -1 if "index" in given else 0, True)
    kept = [p for p in left if p.end > p.start]
    pieces[node] = dim, sorted([*kept, mine])


def _cut(piece: _Piece, start: int, end: int) -> _Piece:
    first = piece.first if piece.first < 0 else piece.first + start - piece.start
    return _Piece(start, end, piece.node, first, piece.whole and (start, end) == (piece.start, piece.end))


def _read(graph: fx.Graph, node: fx.Node, pieces: dict[fx.Node, tuple[int, list[_Piece]]]) -> None:
    """A slice within one piece is a slice of that."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or source not in pieces:
        return
    (dim, parts), span = pieces[source], _span(node, source.meta["val"].shape)
    if span is None or span[0] != dim:
        return
    found = [p for p in parts if p.start <= span[1] and span[2] <= p.end]
    if not found or (found[0].first < 0 and node.target is aten.slice.Tensor and span[1] == span[2]):
        return
    with graph.inserting_before(node):
        value = _value(graph, _cut(found[0], span[1], span[2]), dim)
        if node.target is aten.select.int:
            value = _call(graph, node, aten.select.int, value, dim, 0)
    node.replace_all_uses_with(value)


def _value(graph: fx.Graph, piece: _Piece, dim: int) -> fx.Node:
    """The piece as a value; one written at a single position has no such axis yet."""
    if piece.first < 0:
        return _call(graph, piece.node, aten.unsqueeze.default, piece.node, dim)
    if piece.whole:
        return piece.node
    end = piece.first + piece.end - piece.start
    return _call(graph, piece.node, aten.slice.Tensor, piece.node, dim, piece.first, end)


def _call(graph: fx.Graph, like: fx.Node, target: Any, *args: Any) -> fx.Node:
    node = graph.call_function(target, args)
    node.meta = {key: v for key, v in like.meta.items() if key == "nn_module_stack"}
    node.meta["val"] = target(*fx.node.map_arg(args, lambda n: n.meta["val"]))
    return node
