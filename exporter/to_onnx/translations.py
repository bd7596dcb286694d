"""The exporter's table of translations, made for the ops of one network; and no decompositions where none applies.

`torch.onnx.export` reads the source of all its translations, some hundreds of which a network needs a dozen, collects
all decompositions that PyTorch knows, and traces the network once more through them. A plain network at one size is
mostly made of ops that have a translation each. That trace leaves these as they are, but for what is made of others:

    flatten, unflatten, view        → reshape to sizes that are numbers
    adaptive_avg_pool2d to 1        → mean over height and width
    batch_norm in eval mode         → the first result of the norm without training
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from onnxscript.function_libs.torch_lib import ops as ops  # which fills the registry
from onnxscript.function_libs.torch_lib import registration
from torch import Tensor, fx
from torch.onnx._internal.exporter import _fx_passes
from torch.onnx._internal.exporter._torchlib import _torchlib_registry

aten = torch.ops.aten
_TAKEN_OUT = {aten._assert_tensor_metadata.default, operator.getitem}
"""What the exporter does without a translation."""
_RESHAPE = aten.reshape.default
_WHOLE = ("_operator", "math", "prims")
_ADDED = {"aten::_to_copy", "aten::scalar_tensor"}
"""Small namespaces, and ops: what the exporter adds by itself to promote types."""


@contextmanager
def translating(names: set[str] | None) -> Iterator[None]:
    """Within it `torch.onnx.export` knows the translations of these ops alone, and decomposes none.

    Where `names` is None it does as it always does.
    """
    if names is None:
        yield
        return
    kept, decompose = registration.default_registry, _fx_passes.decompose_with_registry
    registration.default_registry = _Chosen(kept, names | _ADDED)  # type: ignore[assignment]
    _fx_passes.decompose_with_registry = lambda exported_program, registry: exported_program
    try:
        yield
    finally:
        registration.default_registry, _fx_passes.decompose_with_registry = kept, decompose


class _Chosen:
    """A registry with the translations of some ops alone."""

    def __init__(self, whole: Any, names: set[str]) -> None:
        self.whole, self.names = whole, names

    def items(self) -> Iterator[tuple[str, Any]]:
        """The name of each op, and its translations."""
        for name, functions in self.whole.items():
            if name.partition(".")[0] in self.names or name.partition("::")[0] in _WHOLE:
                yield name, functions


def names_to_translate(program: torch.export.ExportedProgram, custom: Iterable[Any]) -> set[str] | None:
    """The ops of `program` by their names, once it is spelled in ops that stay as they are, which changes it.

    None where a size is open or 0, or there is an op that has no translation, or of which a decomposition may make
    another. `custom` are ops that have a translation besides.
    """
    graph = program.graph
    if not all(isinstance(n, int) and n > 0 for node in graph.nodes for n in _sizes(node)):
        return None
    for target, spell in _SPELLED.items():
        for node in graph.find_nodes(op="call_function", target=target):
            spell(node)
    called = {n.target for n in graph.nodes if n.op == "call_function"} - _TAKEN_OUT
    known = {name.removesuffix(".default") for name, _ in registration.default_registry.items()}
    own: list[Any] = [each.fx_target for each in _torchlib_registry.get_torchlib_ops()]
    known |= {op.name() for op in (*own, *custom) if _is_op(op)}
    if not all(_is_op(op) and op.name() in known for op in called) or any(map(_is_made_of_others, called - {_RESHAPE})):
        return None
    return {op.name().partition(".")[0] for op in called}  # with all its overloads: promoted types may want another


def _sizes(node: fx.Node) -> tuple[Any, ...]:
    """All sizes of a value, or of several."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(n for each in values for n in (each.shape if isinstance(each, Tensor) else ()))


def _is_op(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload)


def _is_made_of_others(op: Any) -> bool:
    """Whether a trace shows what an op is made of: one that writes, or gives a view by others."""
    aliases = any(each.alias_info is not None for each in (*op._schema.arguments, *op._schema.returns))
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")
    return bool(op._schema.is_mutable or (aliases and composite))


# ------------------------------------------------------------------ what is spelled otherwise


def _reshape(node: fx.Node) -> None:
    """To the sizes that came out."""
    node.target, node.args, node.kwargs = _RESHAPE, (node.args[0], list(node.meta["val"].shape)), {}


def _mean(node: fx.Node) -> None:
    """Over the whole map; any other adaptive pool is `lower`'s."""
    if node.args[1] in (1, [1], [1, 1], (1, 1)):
        node.target, node.args, node.kwargs = aten.mean.dim, (node.args[0], [-1, -2], True), {}


def _norm(node: fx.Node) -> None:
    """By running statistics: the first of three results."""
    source, weight, bias, mean, var, trains, momentum, eps, _ = node.args
    if trains or mean is None:
        return
    args = (source, weight, bias, mean, var, momentum, eps)
    with node.graph.inserting_before(node):
        norm = node.graph.call_function(aten._native_batch_norm_legit_no_training.default, args)
    value = node.meta["val"]
    norm.meta = {**node.meta, "val": (value, value.new_empty(0), value.new_empty(0))}
    node.target, node.args, node.kwargs = operator.getitem, (norm, 0), {}


_SPELLED: dict[Any, Callable[[fx.Node], None]] = {
    aten.flatten.using_ints: _reshape,
    aten.unflatten.int: _reshape,
    aten.view.default: _reshape,
    _RESHAPE: _reshape,
    aten.adaptive_avg_pool2d.default: _mean,
    aten.batch_norm.default: _norm,
}
