"""The few moves that every pass makes on a `gs.Graph`: who makes a value, who reads it, put this in the place of that.

Values and nodes are compared by identity; onnx-graphsurgeon's own `==` compares names.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..errors import ExportError, one_line
from ..names import NumberedNames
from ..onnx_file.file import LARGE, all_tensors
from .names import first_free, names_of

MAX_EXACT = 1 << 29
"""Bytes of unrounded values that are kept beside a graph; all of them for a network of 60 M parameters."""


def producer(tensor: Any, *ops: str) -> Any:
    """The node that makes `tensor`, if it is one of `ops` (any, if none is named); else None."""
    node = tensor.inputs[0] if tensor.inputs else None
    standard = node is not None and (node.domain or "") in ("", "ai.onnx")
    return node if node is not None and (not ops or (standard and node.op in ops)) else None


def is_output(graph: gs.Graph, tensor: Any) -> bool:
    """Whether `tensor` leaves the graph: as an output of it or of a graph within, or to be read by a graph within."""
    leaving = vars(graph).get("leaving")
    if leaving is None:
        leaving = find_outputs(graph)
    return id(tensor) in leaving


def is_end(graph: gs.Graph, tensor: Any) -> bool:
    """Whether `tensor` is an output of the graph or of a graph within; one that a graph within only reads is not."""
    if "ends" not in vars(graph):
        find_outputs(graph)
    return id(tensor) in vars(graph)["ends"]


def find_outputs(graph: gs.Graph) -> dict[int, Any]:
    """What `is_output` answers from; to be called once before a pass, which leaves it as it is.

    A value that a graph within another (`within`) reads and does not make belongs to the one around it: it leaves, too.
    """
    inner = [g for node in graph.nodes if node.attrs for g in node.subgraphs(recursive=True)]
    leaving = {id(t): t for g in (graph, *inner) for t in g.outputs}
    vars(graph)["ends"] = set(leaving)
    leaving |= {id(t): t for g in inner for node in g.nodes for t in node.inputs}
    if root_of(graph) is not graph:
        made = {id(t) for node in graph.nodes for t in node.outputs} | {id(t) for t in graph.inputs}
        read = [t for node in graph.nodes for t in node.inputs]
        leaving |= {id(t): t for t in read if id(t) not in made and not is_constant(t)}
    vars(graph)["leaving"] = leaving
    return leaving


def within(graph: gs.Graph) -> list[gs.Graph]:
    """The graphs within `graph` (branches, loop bodies), each of which knows its outermost one from then on."""
    inner = list(graph.subgraphs(recursive=True))
    for each in inner:
        vars(each)["root"] = graph
    return inner


def root_of(graph: gs.Graph) -> gs.Graph:
    """The outermost graph around `graph`."""
    return vars(graph).get("root", graph)


def sole_user(graph: gs.Graph, tensor: Any, *ops: str) -> Any:
    """The one node that reads `tensor`, once, if nothing else does and it is one of `ops`; else None."""
    if len(tensor.outputs) != 1 or is_output(graph, tensor):
        return None
    user = tensor.outputs[0]
    return user if not ops or user.op in ops else None


def is_constant(tensor: Any) -> bool:
    """Whether the values of `tensor` are known."""
    return isinstance(tensor, gs.Constant)


def is_weight(tensor: Any) -> bool:
    """Whether `tensor` is a constant of 16-, 32- or 64-bit floats."""
    return is_constant(tensor) and isinstance(tensor.dtype, np.dtype) and tensor.dtype.kind == "f"


def values64(tensor: Any) -> np.ndarray:
    """The values of a constant in float64: those before rounding, where a pass computed them."""
    exact = getattr(tensor, "exact", None)
    return exact if exact is not None else np.asarray(tensor.values, np.float64)


def ints(tensor: Any) -> list[int] | None:
    """The values of a small integer constant, or None."""
    if not is_constant(tensor) or tensor._values.nbytes >= LARGE or _kind(tensor) not in "iu":
        return None
    return [int(v) for v in np.asarray(tensor.values).reshape(-1)]


def _kind(tensor: Any) -> str:
    """NumPy's kind of number; onnx-graphsurgeon gives ONNX's own type where NumPy has none."""
    return "V" if isinstance(tensor.dtype, int) else np.dtype(tensor.dtype).kind


def scalar(tensor: Any) -> float | None:
    """The value of a constant that holds one number, or None."""
    if not is_constant(tensor) or int(np.prod(tensor.shape)) != 1 or _kind(tensor) != "f":
        return None
    return float(values64(tensor).reshape(-1)[0])


def is_same_shape(x: Any, y: Any) -> bool:
    """Whether x and y have one shape, known in every axis (a symbol is known by its name)."""
    return x.shape is not None and y.shape is not None and None not in x.shape and list(x.shape) == list(y.shape)


def is_same_value(graph: gs.Graph, x: Any, y: Any) -> bool:
    """Whether y, a view of x or a part of it in order, is x: of one shape, and that shape more than a name.

    The open axes of an output are named by whoever wrote the file, and often named like those of the input without
    being as long. One of them follows from the number of elements, which a view keeps.
    """
    if not is_same_shape(x, y):
        return False
    return all(isinstance(size, int) for size in y.shape) or not is_output(graph, y)


def is_same_view(graph: gs.Graph, x: Any, y: Any) -> bool:
    """`is_same_value` of a y that has all elements of x in their order."""
    names = sum(not isinstance(size, int) for size in y.shape or ())
    return is_same_shape(x, y) if names <= 1 else is_same_value(graph, x, y)


def spatial(tensor: Any) -> tuple[int, ...] | None:
    """The spatial sizes of an N,C,… value where all are known, or None."""
    if tensor.shape is None or len(tensor.shape) < 3 or not all(isinstance(s, int) for s in tensor.shape[2:]):
        return None
    return tuple(tensor.shape[2:])


def fresh(graph: gs.Graph, stem: str) -> str:
    """A name that no value of `graph` has, or of a graph within: `stem`, or `stem` and the first free number."""
    names = names_of(root_of(graph))
    if names is None:
        return first_free(stem, all_tensors(root_of(graph)).__contains__)
    name = first_free(stem, names.is_taken)
    names.promise(name)
    return name


def fresh_node(graph: gs.Graph, stem: str) -> str:
    """A name that no node of `graph` has, likewise."""
    names = names_of(graph)
    return first_free(stem, names.is_taken_by_node if names else {node.name for node in graph.nodes}.__contains__)


def _named(graph: gs.Graph, tensor: Any) -> Any:
    """`tensor`, whose name came from `fresh`."""
    names = names_of(root_of(graph))
    if names is not None:
        names.give(tensor)
    return tensor


def name_nodes(graph: gs.Graph) -> None:
    """Give every node a name of its own: what a pass adds is named after what it replaces."""
    names = NumberedNames()
    for node in graph.nodes:
        node.name = names(node.name or node.op.lower())


def constant(graph: gs.Graph, stem: str, values: np.ndarray, dtype: Any) -> gs.Constant:
    """A new constant of `values` rounded to `dtype`, which keeps them unrounded for later passes if they differ.

    At most `MAX_EXACT` bytes of them a graph: past that, a weight that two passes change is rounded twice.
    """
    tensor = _named(graph, gs.Constant(fresh(graph, stem), np.ascontiguousarray(values.astype(dtype, copy=False))))
    kept = vars(graph).get("exact_bytes", 0) + values.nbytes
    if kept <= MAX_EXACT and not np.array_equal(tensor.values, values):
        tensor.exact = values
        graph.exact_bytes = kept
    return tensor


def rearranged(graph: gs.Graph, stem: str, old: Any, move: Callable[[np.ndarray], np.ndarray]) -> gs.Constant:
    """A new constant of the elements of `old` as `move` lays them out, which computes nothing: it rounds nothing."""
    tensor = _named(graph, gs.Constant(fresh(graph, stem), np.ascontiguousarray(move(old.values))))
    if hasattr(old, "exact"):
        tensor.exact = move(old.exact)
    return tensor


def forget_exact(graph: gs.Graph) -> None:
    """Free the unrounded values that `constant` kept."""
    graph.exact_bytes = 0
    for tensor in graph.tensors().values():
        if hasattr(tensor, "exact"):
            del tensor.exact


def append(
    graph: gs.Graph,
    op: str,
    inputs: Iterable[Any],
    *,
    name: str,
    like: Any = None,
    shape: Sequence[Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Add a node and return its new output: of the type of `like`, and of its shape unless `shape` is given."""
    sizes = list(shape if shape is not None else like.shape or []) or None
    output = _named(graph, gs.Variable(fresh(graph, name), dtype=like.dtype, shape=sizes))
    add_node(graph, op, inputs, output, name=name, attrs=attrs)
    return output


def add_node(
    graph: gs.Graph, op: str, inputs: Iterable[Any], output: Any, *, name: str, attrs: Mapping[str, Any] | None = None
) -> Any:
    """Add a node that makes the existing value `output`, in the place of the node that made it."""
    for old in list(output.inputs):
        detach(graph, old)
    node = gs.Node(op, fresh_node(graph, name), attrs=dict(attrs or {}), inputs=list(inputs), outputs=[output])
    graph.nodes.append(node)
    names = names_of(graph)
    if names is not None:
        names.give_node(node)
    return node


def sort(graph: gs.Graph) -> None:
    """Put the nodes in an order in which they can run.

    Raises:
        ExportError: there is none.

    """
    try:
        graph.toposort()
    except Exception as error:
        raise ExportError(
            f"the ONNX graph cannot be sorted ({one_line(error, 100)}); it must not have a cycle"
        ) from error


def detach(graph: gs.Graph, node: Any) -> None:
    """Take `node` out of the graph; its name, and those of its weights that nothing else reads, become free."""
    node.inputs.clear()
    node.outputs.clear()
    at = next((i for i, other in enumerate(graph.nodes) if other is node), None)
    if at is not None:
        del graph.nodes[at]


def bypass(graph: gs.Graph, node: Any, source: Any) -> bool:
    """Let `source` stand for the first output of `node`, which is dropped; False where that would rename an output."""
    output = node.outputs[0]
    if not is_output(graph, output):
        detach(graph, node)
        redirect(output, source)
        return True
    # The output keeps its name: whatever makes `source` makes it from now on.
    maker = source.inputs[0] if source.inputs else None
    if maker is None or is_output(graph, source):
        return False
    detach(graph, node)
    maker.outputs[next(i for i, t in enumerate(maker.outputs) if t is source)] = output
    redirect(source, output)
    return True


def redirect(old: Any, new: Any) -> None:
    """Let every reader of `old` read `new`."""
    for user in list(old.outputs):
        for i, tensor in enumerate(user.inputs):
            if tensor is old:
                user.inputs[i] = new


@contextmanager
def outputs_inferred(graph: gs.Graph) -> Iterator[None]:
    """Within it, inference tells the shapes of outputs too, which it leaves as they are declared otherwise."""
    outputs = list(graph.outputs)
    graph.outputs.clear()
    try:
        yield
    finally:
        graph.outputs[:] = outputs
