"""Q/DQ as runtimes on a CPU fuse it: from one conv or matrix product to the next everything is stored in 8 bits.

Given   y = relu(conv(x, w) + b)                                       x, w, b, y float
Result  y = DQ(Q(relu(conv(DQ(Q(x)), DQ(w_q)) + DQ(b_q))))             x, y uint8, w_q int8, b_q int32
        Q(x) = round(x / s) + z,  s = (high − low) / 255,  z = −low / s,  one s a channel for w,  b_q = b / (s_x · s_w)

A kernel in int8 is found where all that a node reads and gives is so stored, of adds, products, pools and concats too:
then no float is written between. Behind the last layer values stay as they are: outputs have scales of their own. A
conv whose result goes only there has no such kernel and stays in float32; a matrix product has one that gives floats.

A stored weight is within ±64, so that every CPU and every runtime on it computes the same sums: x86 without VNNI adds
two products in 16 bits, which hold two of these.
"""

from collections.abc import Iterable, Set

import onnx_ir as ir

from .layout import Layout, Plan, quantizable

CLIPS = ("Relu", "Clip")
"""What a kernel in int8 does by itself, as it clips its result to the range that this is stored in."""
MOVES = (
    "DepthToSpace", "Flatten", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""What gives values that it reads: stored by the same scale."""
COMPUTES = ("Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid")
PRODUCTS = ("Conv", "Gemm", "MatMul")


def _plan(graph: ir.Graph, kept: Set[str]) -> Plan:
    """Every float from one layer that has a kernel in int8 to the next."""
    leading = _leading(graph)
    stored: dict[ir.Value, ir.Value] = {}
    layers: set[ir.Node] = set()
    for node in graph:
        result, read = _clipped(node.outputs[0]), [x for x in node.inputs if x is not None]
        leads_on, new = result in leading, []
        if node.name in kept or node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type in PRODUCTS and quantizable(node) and (leads_on or node.op_type != "Conv"):
            layers.add(node)
            new = [read[0], *([result] if leads_on else [])]
        elif node.op_type in MOVES and leads_on and read[0] in stored:
            stored[node.outputs[0]] = stored[read[0]]
        elif node.op_type in COMPUTES and leads_on and not stored.keys().isdisjoint(read) and _are_floats(read):
            new = [*read, result]
        stored |= {x: x for x in new if x not in stored}
    return Plan(stored, frozenset(layers))


def _leading(graph: ir.Graph) -> set[ir.Value]:
    """The values that some conv or matrix product is computed from."""
    found: set[ir.Value] = set()
    for node in reversed(graph):
        if quantizable(node) or not found.isdisjoint(node.outputs):
            found |= {x for x in node.inputs if x is not None}
    return found


def _clipped(result: ir.Value) -> ir.Value:
    """What a layer gives: of one that is only clipped, the clipped values."""
    readers = result.consumers()
    alone = len(result.uses()) == 1 and not result.is_graph_output()
    return readers[0].outputs[0] if alone and readers[0].op_type in CLIPS else result


def _are_floats(values: Iterable[ir.Value]) -> bool:
    return all(x.dtype == ir.DataType.FLOAT for x in values)


CPU = Layout("cpu", _plan, (*PRODUCTS, *CLIPS, *MOVES, *COMPUTES), affine=True)
