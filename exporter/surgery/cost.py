"""What a graph costs at batch 1, in what a GPU spends its time on; nodes are only names for it.

    parameters  numbers that the float constants hold
    macs        products of a weight and a value: convolutions and matrix products
    moved       elements that kernels read and write; weights are left out, as no rewrite here reads them twice
    passes      full-size values that kernels read and write: those of more than one position a channel
    kernels     launches, once the runtime has fused what it fuses
    depth       kernels on the longest path from an input to an output: no batch of 1 runs faster than these in a row

Kernels are those that TensorRT is documented to make. Pointwise ops, norms among them, whose value only one kernel
reads join it. A convolution or matrix product takes up the pointwise ops behind it as long as they read at most one
more value, by an Add (a skip connection). Views cost nothing; nor does a concat of channels into which every source
is written straight. Everything else is a kernel of its own.

Two exchange rates compare rewrites that trade one for another (`Work.price`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

MACS_PER_ELEMENT = 64.0
"""MACs in the time that one element takes to be read or written: of a data-centre GPU in float32 (A100: 25·10¹² MAC/s
in tensor-float against 1.5·10¹² B/s), both at what real kernels reach. A CPU has fewer, an H100 about as many."""
ELEMENTS_PER_KERNEL = float(1 << 18)
"""Elements in the time that one more kernel takes: two thirds of a microsecond, the gap within a CUDA graph."""

_USUAL = "usual_shape"
"""The attribute of a value that holds the shape it is supposed to have."""

VIEWS = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Constant", "Shape", "Size"}
ACTIVATIONS = {
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Celu", "Gelu",
    "Softplus", "Softsign", "Mish", "ThresholdedRelu", "Swish",
}  # fmt: skip
POINTWISE = ACTIVATIONS | {
    "Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean", "Pow", "Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal",
    "Erf", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Where", "Equal", "Greater", "Less", "Not", "And", "Or",
    "Cast", "BatchNormalization",
}  # fmt: skip
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True)
class Work:
    """The cost of a graph, see above; `unknown` counts the nodes whose sizes are not known, which add nothing."""

    macs: int = 0
    moved: int = 0
    passes: int = 0
    kernels: int = 0
    depth: int = 0
    parameters: int = 0
    unknown: int = 0

    @property
    def price(self) -> float:
        """All of it in elements moved."""
        return self.moved + self.macs / MACS_PER_ELEMENT + self.kernels * ELEMENTS_PER_KERNEL

    def as_json(self) -> dict[str, int]:
        """Name → number."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(eq=False)
class Kernel:
    """The nodes that run as one: first to last, what they read from other kernels, what these read from them."""

    nodes: list[Any] = field(default_factory=list)
    reads: list[Any] = field(default_factory=list)
    writes: list[Any] = field(default_factory=list)


def work_of(graph: gs.Graph) -> Work:
    """The cost of `graph`, sorted and with its shapes inferred, for one image where its batch is open."""
    macs = unknown = 0
    for node in graph.nodes:
        counted = macs_of(node)
        macs += counted or 0
        unknown += counted is None
    kernels = kernels_of(graph)
    moved = passes = 0
    for kernel in kernels:
        for value in (*kernel.reads, *kernel.writes):
            size = elements(value)
            moved += size or 0
            passes += _is_map(value)
            unknown += size is None
    return Work(macs, moved, passes, len(kernels), _depth(kernels), _parameters(graph), unknown)


def _parameters(graph: gs.Graph) -> int:
    constants = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    return sum(prod(t.shape) for t in constants if isinstance(t.dtype, np.dtype) and t.dtype.kind == "f")


def macs_of(node: Any) -> int | None:
    """Multiply-accumulates of a node; 0 for one that has none, None where a size is not known."""
    rule = _MACS.get(node.op) if (node.domain or "") in ("", "ai.onnx") else None
    return rule(node) if rule is not None else 0


def elements(tensor: Any) -> int | None:
    """How many elements a value has, for one image where its batch is open; None where a size is not known."""
    sizes = sizes_of(tensor)
    return None if sizes is None else prod(sizes)


def sizes_of(tensor: Any) -> list[int] | None:
    """The shape of a value, an open batch as 1; the usual one where another axis is open; None without one."""
    shape = tensor.shape
    if shape is None or not all(isinstance(size, (int, np.integer)) for size in shape[1:]):
        shape = vars(tensor).get(_USUAL)
        if shape is None:
            return None
    return [int(size) if isinstance(size, (int, np.integer)) else 1 for size in shape]


def suppose_usual_sizes(graph: gs.Graph, sizes: Mapping[str, list[int]]) -> None:
    """Let what is compared between here and `forget_usual_sizes` count a value of an open size as if it had `sizes`."""
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Variable) and name in sizes:
            vars(tensor)[_USUAL] = sizes[name] if _batch_is_known(tensor) else [1, *sizes[name][1:]]


def forget_usual_sizes(graph: gs.Graph) -> None:
    """What is of an open size is unknown again."""
    for tensor in graph.tensors().values():
        vars(tensor).pop(_USUAL, None)


def _batch_is_known(tensor: Any) -> bool:
    return bool(tensor.shape) and isinstance(tensor.shape[0], (int, np.integer))


def kernels_of(graph: gs.Graph) -> list[Kernel]:
    """The kernels of a sorted graph, in an order in which they can run."""
    outputs = {id(t) for g in (graph, *graph.subgraphs(recursive=True)) for t in g.outputs}
    nodes = [n for n in graph.nodes if n.outputs]
    elided = {id(n) for n in nodes if _costs_nothing(n, outputs)}
    kernel_of: dict[int, Kernel] = {}
    kernels: list[Kernel] = []
    for node in reversed(nodes):
        if id(node) in elided:
            continue
        kernel = _joined(node, kernel_of, outputs)
        if kernel is None:
            kernel = Kernel()
            kernels.append(kernel)
        kernel.nodes.insert(0, node)
        kernel_of[id(node)] = kernel
    _connect(nodes, elided, kernel_of, outputs)
    return kernels[::-1]


def _costs_nothing(node: Any, outputs: set[int]) -> bool:
    """Whether `node` is a view, works on shapes, or is a concat whose sources are written in place."""
    if (node.domain or "") not in ("", "ai.onnx"):
        return False
    if node.op in VIEWS or all(_is_host(t) for t in node.outputs if not t.is_empty()):
        return True
    return bool(
        node.op == "Concat"
        and node.attrs.get("axis") == 1
        and all(
            t.inputs and t.inputs[0].op not in VIEWS and len(t.outputs) == 1 and id(t) not in outputs
            for t in node.inputs
        )
    )


def _is_host(tensor: Any) -> bool:
    """Whether a value is one of those few integers that say a shape."""
    return tensor.shape is not None and len(tensor.shape) < 2 and tensor.dtype == np.int64


def _joined(node: Any, kernel_of: Mapping[int, Kernel], outputs: set[int]) -> Kernel | None:
    """The kernel of later nodes that `node` runs in, if there is one."""
    if (node.domain or "") not in ("", "ai.onnx") or node.op not in POINTWISE | PRODUCTS or len(node.outputs) != 1:
        return None
    y = node.outputs[0]
    readers = {id(kernel_of.get(id(user))): kernel_of.get(id(user)) for user in y.outputs}
    if id(y) in outputs or len(readers) != 1:
        return None
    (kernel,) = readers.values()
    if kernel is None or kernel.nodes[-1].op not in POINTWISE:
        return None
    if any(n.op in PRODUCTS for n in kernel.nodes):
        return None  # a product opens its kernel
    if node.op in POINTWISE:
        return kernel
    return kernel if _is_epilogue(kernel, y) else None


def _is_epilogue(kernel: Kernel, y: Any) -> bool:
    """Whether a convolution that makes y can go on with the ops of `kernel`: activations and at most one Add."""
    inside = {id(t) for n in kernel.nodes for t in n.outputs} | {id(y)}
    others = [
        (n, t) for n in kernel.nodes for t in n.inputs
        if not t.is_empty() and not isinstance(t, gs.Constant) and id(t) not in inside
    ]  # fmt: skip
    if len(others) > 1 or any(n.op not in ("Add", "Sum") or t.shape != y.shape for n, t in others):
        return False
    return all(n.op in ACTIVATIONS | {"Add", "Sum", "Mul", "Max", "Min", "BatchNormalization"} for n in kernel.nodes)


def _connect(nodes: Iterable[Any], elided: set[int], kernel_of: Mapping[int, Kernel], outputs: set[int]) -> None:
    """Fill in what each kernel reads and writes, looking through what costs nothing."""
    sources: dict[int, list[Any]] = {}  # of a value that no kernel makes: the values it is made of

    def behind(value: Any) -> list[Any]:
        return sources.get(id(value), [] if isinstance(value, gs.Constant) or _is_host(value) else [value])

    left: dict[int, Any] = {}
    for node in nodes:
        if id(node) in elided:
            found = [t for value in node.inputs if not value.is_empty() for t in behind(value)]
            for value in node.outputs:
                sources[id(value)] = found if node.op not in ("Shape", "Size") else []
                if id(value) in outputs:
                    left.update((id(t), t) for t in found)
            continue
        kernel = kernel_of[id(node)]
        for value in [*node.inputs, *_captured(node)]:
            for source in behind(value) if not value.is_empty() else []:
                maker = source.inputs[0] if source.inputs else None
                if kernel_of.get(id(maker)) is not kernel and all(source is not t for t in kernel.reads):
                    kernel.reads.append(source)
                    left[id(source)] = source
        left.update((id(t), t) for t in node.outputs if id(t) in outputs)
    for node in nodes:
        for value in node.outputs if id(node) in kernel_of else []:
            if id(value) in left:
                kernel_of[id(node)].writes.append(value)


def _captured(node: Any) -> list[Any]:
    """Values of outer graphs that the subgraphs of `node` read."""
    made = {id(t) for g in node.subgraphs(recursive=True) for n in g.nodes for t in n.outputs}
    read = [t for g in node.subgraphs(recursive=True) for n in g.nodes for t in n.inputs]
    return [t for t in read if id(t) not in made and t.inputs]


def _depth(kernels: list[Kernel]) -> int:
    """Kernels on the longest path."""
    depth: dict[int, int] = {}  # of a value: kernels up to it
    for kernel in kernels:
        here = 1 + max((depth.get(id(t), 0) for t in kernel.reads), default=0)
        depth.update((id(t), here) for t in kernel.writes)
    return max(depth.values(), default=0)


def _is_map(value: Any) -> bool:
    """Whether a value has more than one position a channel."""
    sizes = sizes_of(value)
    return sizes is not None and prod(sizes[2:]) > 1


def _conv(node: Any) -> int | None:
    """N·O·P·(I/groups)·K: each output element reads one kernel."""
    y, weight = elements(node.outputs[0]), sizes_of(node.inputs[1])  # O, I/groups, *K
    return None if y is None or weight is None else y * prod(weight[1:])


def _conv_transpose(node: Any) -> int | None:
    """N·I·P·(O/groups)·K: each input element writes one kernel."""
    x, weight = elements(node.inputs[0]), sizes_of(node.inputs[1])  # I, O/groups, *K
    return None if x is None or weight is None else x * prod(weight[1:])


def _gemm(node: Any) -> int | None:
    """M·N·K."""
    y, a = elements(node.outputs[0]), sizes_of(node.inputs[0])
    return None if y is None or a is None else y * a[0 if node.attrs.get("transA", 0) else 1]


def _matmul(node: Any) -> int | None:
    """Batch·M·N·K."""
    y, a = elements(node.outputs[0]), sizes_of(node.inputs[0])
    return None if y is None or a is None or not a else y * a[-1]


_MACS: dict[str, Callable[[Any], int | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
