"""What ONNX has no operator for, rewritten in PyTorch: adaptive pools, as ordinary pools with the same windows.

An adaptive pool of size L to size O takes window i = [⌊i·L/O⌋, ⌈(i+1)·L/O⌉). Where these windows are equally spaced
and equally wide, but for what the border cuts off, an ordinary pool has them. Elsewhere (75 → 40) a max takes an
element twice without harm: gather each window's elements, repeating the last to the common width, and pool without
overlap. A mean takes none twice: it is a product with one matrix an axis. Both hold at the traced size alone.
"""

import operator
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from ..errors import ExportError

aten = torch.ops.aten
_MAX: tuple[Any, ...] = (aten.adaptive_max_pool2d.default, nn.functional.adaptive_max_pool2d)
_MEAN: tuple[Any, ...] = (
    aten.adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    nn.functional.adaptive_avg_pool2d,
)


class Pool(NamedTuple):
    """An ordinary pool along one axis, its output size rounded down; padding elements belong to no window."""

    kernel: int
    stride: int
    pad_begin: int
    pad_end: int


def adaptive_windows(size_in: int, size_out: int) -> list[tuple[int, int]]:
    """[⌊i·L/O⌋, ⌈(i+1)·L/O⌉) for each i < O = `size_out`, L = `size_in`."""
    return [(i * size_in // size_out, -((-(i + 1) * size_in) // size_out)) for i in range(size_out)]


def pool_windows(size_in: int, pool: Pool) -> list[tuple[int, int]]:
    """[i·s − p, i·s − p + k) ∩ [0, L) for each i that an ordinary pool, rounding its output size down, computes."""
    count = (size_in + pool.pad_begin + pool.pad_end - pool.kernel) // pool.stride + 1
    starts = [i * pool.stride - pool.pad_begin for i in range(count)]
    return [(max(0, start), min(size_in, start + pool.kernel)) for start in starts]


def pool_from_adaptive(size_in: int, size_out: int) -> Pool | None:
    """The ordinary pool whose windows are those of the adaptive pool from `size_in` to `size_out`, or None if none is.

    The windows are the same read from either end, so both paddings are one p; window 0 is [0, k − p), so p fixes k.
    """
    wanted = adaptive_windows(size_in, size_out)
    if size_out == 1:
        return Pool(size_in, size_in, 0, 0)
    first_end = wanted[0][1]
    for pad in range(first_end + 1):  # torch wants p ≤ k / 2 = (first_end + p) / 2
        kernel = first_end + pad
        for stride in range(1, kernel + 1):
            pool = Pool(kernel, stride, pad, pad)
            if pool_windows(size_in, pool) == wanted:
                return pool
    return None


def needs_lowering(module: fx.GraphModule) -> bool:
    """Whether `module` holds an adaptive pool that `lower` rewrites."""
    return any(_adaptive(node, module) is not None for node in module.graph.nodes)


def lower(module: fx.GraphModule, example: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """A copy of `module` that shares its weights, its adaptive pools ordinary ones.

    It is right at the size of `example` alone. A mean over the whole map stays as it is, at any size.

    Raises:
        ExportError: an adaptive pool whose input size is symbolic, or whose indices are used.

    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graph.set_codegen(module.graph._codegen)
    lowered = fx.GraphModule(module, graph)
    lowered.train(module.training)
    if any("val" not in node.meta for node in lowered.graph.nodes if _adaptive(node, lowered) is not None):
        FakeTensorProp(lowered, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*example)
    for node in list(lowered.graph.nodes):
        kind = _adaptive(node, lowered)
        if kind is not None:
            _replace(node, lowered, kind)
    lowered.graph.lint()
    lowered.recompile()
    return lowered


def _adaptive(node: fx.Node, module: fx.GraphModule) -> str | None:
    """Whether `node` is an adaptive pool: "max", "mean" unless of the whole map, or None."""
    part = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if node.target in _MAX or isinstance(part, nn.AdaptiveMaxPool2d):
        return "max"
    if node.target in _MEAN or isinstance(part, nn.AdaptiveAvgPool2d):
        wanted = part.output_size if part is not None else _argument(node, 1, "output_size")
        whole = wanted in (1, (1, 1), [1, 1])
        return None if whole else "mean"
    return None


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs[name]


def _replace(node: fx.Node, module: fx.GraphModule, kind: str) -> None:
    source = _argument(node, 0, "input")
    value, result = source.meta["val"], node.meta["val"]
    if isinstance(result, (tuple, list)):  # (values, indices)
        if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users if user.users):
            raise ExportError(f"{node.name}: the indices of an adaptive max pool are used; ONNX has none, drop them")
        result = result[0]
    sizes = list(zip(value.shape[-2:], result.shape[-2:], strict=True))
    if not all(type(size) is int for pair in sizes for size in pair):
        raise ExportError(
            f"{node.name}: an adaptive pool of an open size has no fixed windows; fix the input's H and W"
        )
    with module.graph.inserting_before(node):
        new = (_max_pool if kind == "max" else _mean_pool)(node, module, source, value, sizes)
    new.meta.update({key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta})
    new.meta["val"] = result
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(new)
            module.graph.erase_node(user)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _max_pool(node: fx.Node, module: fx.GraphModule, x: fx.Node, value: torch.Tensor, sizes: list[Any]) -> fx.Node:
    """An ordinary max pool; along an axis that has none, of the elements gathered window by window."""
    pools = []
    for axis, (size_in, size_out) in enumerate(sizes, start=value.ndim - 2):
        pool = pool_from_adaptive(size_in, size_out)
        if pool is None:
            windows = adaptive_windows(size_in, size_out)
            width = max(end - start for start, end in windows)
            index = [min(start + k, end - 1) for start, end in windows for k in range(width)]
            name = _buffer(module, f"{node.name}_index_{axis}", torch.tensor(index, device=value.device))
            x = module.graph.call_function(aten.index_select.default, (x, axis, module.graph.get_attr(name)))
            pool = Pool(width, width, 0, 0)
        pools.append(pool)
    arguments = ([p.kernel for p in pools], [p.stride for p in pools], [p.pad_begin for p in pools])
    return module.graph.call_function(aten.max_pool2d.default, (x, *arguments))


def _mean_pool(node: fx.Node, module: fx.GraphModule, x: fx.Node, value: torch.Tensor, sizes: list[Any]) -> fx.Node:
    """An ordinary mean pool; where an axis has none, A_h·x·A_wᵀ, A[i, j] = 1/width of window i for each j in it."""
    pools = [pool_from_adaptive(*pair) for pair in sizes]
    if None not in pools:
        arguments = [[getattr(p, field) for p in pools] for field in ("kernel", "stride", "pad_begin")]
        return module.graph.call_function(aten.avg_pool2d.default, (x, *arguments, False, False))
    means = []
    for axis, (size_in, size_out) in enumerate(sizes):
        mean_OI = torch.zeros(size_out, size_in, dtype=torch.float64)
        for i, (start, end) in enumerate(adaptive_windows(size_in, size_out)):
            mean_OI[i, start:end] = 1 / (end - start)
        mean_OI = (mean_OI if axis == 0 else mean_OI.T).contiguous().to(value.device, value.dtype)
        means.append(module.graph.get_attr(_buffer(module, f"{node.name}_mean_{axis}", mean_OI)))
    rows = module.graph.call_function(aten.matmul.default, (means[0], x))
    return module.graph.call_function(aten.matmul.default, (rows, means[1]))


def _buffer(module: fx.GraphModule, stem: str, tensor: torch.Tensor) -> str:
    name = stem
    while hasattr(module, name):
        name += "_"
    module.register_buffer(name, tensor)
    return name


def floor_negative_divisions(graph: fx.Graph) -> None:
    """a // b → (a − a mod b) // b in place, for sizes of unlike signs: ONNX rounds their quotient towards zero.

    Padding that keeps ⌈H / s⌉ positions is written so: −(−H // s).
    """
    for node in graph.find_nodes(op="call_function", target=operator.floordiv):
        hints = [_hint(a) for a in node.args]
        if None in hints or hints[0] * hints[1] >= 0:
            continue
        a, b = (n.meta["val"] if isinstance(n, fx.Node) else n for n in node.args)
        with graph.inserting_before(node):
            rest = graph.call_function(operator.mod, node.args)
            rest.meta["val"] = a % b
            whole = graph.call_function(operator.sub, (node.args[0], rest))
            whole.meta["val"] = a - a % b
        node.args = (whole, node.args[1])


def _hint(size: Any) -> Any:
    """A size at the traced input, or None for what is none."""
    value = size.meta.get("val") if isinstance(size, fx.Node) else size
    if isinstance(value, torch.SymInt):
        return value.node.hint
    return value if type(value) is int else None
