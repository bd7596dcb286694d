"""An nn.Module as a functional torch.fx graph of ATen calls: by torch.export, else by torch.fx."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn.parameter import is_lazy

from ..errors import ReparamError, first_line
from ..kept import as_it_was
from ..quiet import quiet
from .graph import GUARD, attribute_of, draws_random_numbers, drop_dead_code, is_guard
from .in_place import write_out_of_place
from .inline import inline_modes
from .openness import drop_whole_slices, follow_open_axes
from .sizes_read import sizes_hidden
from .symbolic import symbolic_graph
from .tidy import tidy

Tracer = Literal["auto", "export", "fx"]
HARMLESS = re.compile(
    r".* != 1|1 < .*|.*\bmax\(.*|.* >= 1( and .* >= 1)*|.*size\(\)[^=]* == .*size\(\).*|.* < \(1 \+ .*"
)


@dataclass(frozen=True)
class Traced:
    """The graph, by which tracer, for each input which of its axes the graph leaves open, and on what conditions.

    A graph with conditions checks them itself: the call of torch.export's guard stays in it. `autocast` names the
    dtypes that forward switches autocast on for; the graph computes in the dtype of the weights instead. `reads_sizes`
    says that the module's code may ask for sizes.
    """

    graph_module: fx.GraphModule
    tracer: str
    open_axes: tuple[tuple[bool, ...], ...]
    guards: tuple[str, ...] = ()
    autocast: tuple[str, ...] = ()
    reads_sizes: bool = True


def trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    tracer: Tracer = "auto",
    *,
    open_sizes: bool = True,
    open_batch: bool = True,
) -> Traced:
    """The module's graph: functional (no in-place writes), batch and spatial sizes symbolic wherever the module allows.

    Without `open_sizes` the spatial ones of a module that reads them are numbers, which is many times as quick; without
    `open_batch` so is its batch. The graph always takes the example: where the module branches on its batch, or loops
    over its images, the graph is of the example's batch alone. It shares the module's parameters and buffers; neither
    module is changed. Raises ReparamError for a module in train mode, a quantized one, one whose forward changes its
    own state or draws random numbers, and for one that neither torch.export nor torch.fx can trace.
    """
    _refuse(module)
    failed: list[str] = []
    traced: Traced | None = None
    if tracer != "fx":
        traced = _attempt(module, lambda: _by_export(module, example, open_sizes, open_batch), "torch.export", failed)
    if traced is None and tracer != "export":
        traced = _attempt(module, lambda: _by_fx(module, example), "torch.fx", failed)
    if traced is None:
        _refuse_misfit(module, example)
        raise ReparamError(
            f"{type(module).__name__} cannot be traced by {' nor by '.join(failed)}; "
            "it needs a forward without data-dependent control flow"
        )
    graph_module = traced.graph_module
    if any(map(is_guard, graph_module.graph.nodes)):
        graph_module.add_module(GUARD, SizeGuard(graph_module.get_submodule(GUARD)))
    for node in graph_module.graph.find_nodes(op="get_attr"):
        node.meta.setdefault("val", attribute_of(graph_module, str(node.target)))
    tidy(graph_module)
    random = next((node for node in graph_module.graph.nodes if draws_random_numbers(node)), None)
    if random is not None:
        raise ReparamError(
            f"{random.name} draws random numbers in eval mode, so there is no one function to keep; remove it"
        )
    return traced


class SizeGuard(nn.Module):
    """torch.export's check of the input's sizes, with words for a user."""

    def __init__(self, check: nn.Module) -> None:
        super().__init__()
        self.check = check

    def forward(self, *inputs: Tensor) -> object:
        """Raises ReparamError where the sizes are not those that the trace holds for."""
        try:
            return self.check(*inputs)
        except AssertionError as error:
            found = ", ".join("×".join(map(str, x.shape)) for x in inputs)
            held = first_line(error).removeprefix("Guard failed: ")
            raise ReparamError(
                f"the plain network holds for sizes with {held}; found {found}; reparameterize on an example like it"
            ) from error


class BatchGuard(nn.Module):
    """A guard, and that each input has as many images as these; the words are torch.export's."""

    def __init__(self, check: nn.Module | None, batches: Mapping[str, int | None]) -> None:
        super().__init__()
        self.check, self.batches = check, batches

    def forward(self, *inputs: Tensor) -> None:
        """Raises AssertionError where one has not, or the guard does."""
        for x, (name, n) in zip(inputs, self.batches.items(), strict=True):
            if n is not None and len(x) != n:
                raise AssertionError(f"Guard failed: {name}.size()[0] == {n}")
        if self.check is not None:
            self.check(*inputs)


def _refuse(module: nn.Module) -> None:
    """Raise for a module that is not ready: in train mode, quantized, scripted, or lazy."""
    for name, part in module.named_modules():
        where = name or "the network"
        if isinstance(part, torch.jit.ScriptModule):
            raise ReparamError(
                f"{where} is a TorchScript module, which cannot be traced again; give the nn.Module that it was made of"
            )
        if any(map(is_lazy, (*part.parameters(recurse=False), *part.buffers(recurse=False)))):
            raise ReparamError(
                f"{where} is lazy and has no weights yet; call the network once on an example, then load its weights"
            )
        if type(part).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise ReparamError(
                f"{where} is quantized ({type(part).__name__}); reparameterize the float network, then quantize that"
            )
        if part.training:
            raise ReparamError(f"{where} is in train mode; reparameterization needs eval mode: call .eval() first")


def misfit(module: nn.Module, example: tuple[Tensor, ...], error: Exception) -> ReparamError:
    """What to raise where the module does not even run on the example."""
    inputs = ", ".join(f"{'×'.join(map(str, x.shape))} {str(x.dtype).removeprefix('torch.')}" for x in example)
    return ReparamError(
        f"{type(module).__name__} does not run on the example, {inputs} ({first_line(error)}); give one it takes"
    )


def _refuse_misfit(module: nn.Module, example: tuple[Tensor, ...]) -> None:
    try:
        with quiet("torch"), torch.no_grad():
            module(*example)
    except Exception as error:
        raise misfit(module, example, error) from error


def _attempt(module: nn.Module, make: Callable[[], Traced], name: str, failed: list[str]) -> Traced | None:
    try:
        with quiet("torch"), torch.no_grad(), as_it_was(module):
            return make()
    except ReparamError:
        raise
    except Exception as error:  # whatever the network's own code raises while it is traced
        failed.append(f"{name} ({first_line(error)})")
        return None


def _by_export(module: nn.Module, example: tuple[Tensor, ...], open_sizes: bool, open_batch: bool) -> Traced:
    """At one size where that says what the network does at any, which is several times as quick; else with symbols."""
    try:
        return _at_one_size(module, example)
    except Exception:  # a size that is read, an op of which little is known, or whatever the network raises
        return _by_symbols(module, example, open_sizes, open_batch)


def _at_one_size(module: nn.Module, example: tuple[Tensor, ...]) -> Traced:
    """Raises SizeReadError and SizeDependentError where the network may do something else at another size."""
    inputs, axes = _several(example), _may_be_open(example)
    with sizes_hidden(module) as seen:
        program = torch.export.export(module, tuple(x.clone() for x in inputs), strict=False)
    graph_module, autocast = _functional(program, (), at_one_size=True)
    follow_open_axes(graph_module.graph, axes, seen.several)
    return Traced(graph_module, "torch.export", axes, (), autocast, reads_sizes=False)


def _by_symbols(module: nn.Module, example: tuple[Tensor, ...], open_sizes: bool, open_batch: bool) -> Traced:
    """With the batch and `open_sizes` left symbolic if the module takes it, else the batch, else the sizes, else none.

    A size of 1 cannot be symbolic, so a batch of one is traced as two; what then refuses the example is no trace of it.
    An attempt that fails leaves marks on its inputs, so each gets tensors of its own.
    """
    several, may_be_open, one_batch = _several(example), _may_be_open(example), not open_batch
    with_batch = [(several, (0, 2, 3, 4))] * open_sizes + [(several, (0,))]
    for inputs, axes in with_batch * open_batch + [(example, (2, 3, 4))] * open_sizes + [(example, ())]:
        dynamic = tuple({d: Dim.AUTO for d in axes if any(free[d : d + 1])} for free in may_be_open)
        fresh = tuple(x.clone() for x in inputs)
        try:
            program = torch.export.export(module, fresh, dynamic_shapes=dynamic, strict=False)
        except Exception:
            if not axes:
                raise
            continue
        guards = _guards(program)
        graph_module, autocast = _functional(program, guards)
        if not axes or not guards or _takes(graph_module, example):
            guards += _hold_batch(graph_module, example) if one_batch else ()
            return Traced(graph_module, "torch.export", _open_axes(graph_module), guards, autocast)
        one_batch = True
    raise AssertionError("the last attempt returns or raises")


def _takes(graph_module: fx.GraphModule, example: tuple[Tensor, ...]) -> bool:
    """Whether the guard of a trace lets the example pass."""
    try:
        graph_module.get_submodule(GUARD)(*example)
    except AssertionError:
        return False
    return True


def _hold_batch(graph_module: fx.GraphModule, example: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Add to the guard that the batch is the example's; what it says of each input that has one."""
    inputs = graph_module.graph.find_nodes(op="placeholder")
    has_batch = [any(free[:1]) for free in _may_be_open(example)]
    batches = {node.name: len(x) if own else None for node, x, own in zip(inputs, example, has_batch, strict=True)}
    check = graph_module.get_submodule(GUARD) if any(map(is_guard, graph_module.graph.nodes)) else None
    graph_module.add_module(GUARD, BatchGuard(check, batches))
    if check is None:
        with graph_module.graph.inserting_after(inputs[-1]):
            graph_module.graph.call_module(GUARD, tuple(inputs))
    return tuple(f"{name}.size()[0] == {n}" for name, n in batches.items() if n is not None)


def _open_axes(graph_module: fx.GraphModule) -> tuple[tuple[bool, ...], ...]:
    inputs = [node.meta.get("val") for node in graph_module.graph.find_nodes(op="placeholder")]
    return tuple(tuple(not isinstance(n, int) for n in v.shape) if isinstance(v, Tensor) else () for v in inputs)


def _functional(
    program: ExportedProgram, guards: tuple[str, ...], *, at_one_size: bool = False
) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """The program as a graph without writes in place, and the dtypes that autocast was switched on for."""
    graph_module = program.module(check_guards=bool(guards))
    autocast = inline_modes(graph_module)
    if at_one_size:
        drop_whole_slices(graph_module.graph)
    if not write_out_of_place(graph_module.graph):
        program = program.run_decompositions({})  # slow; turns all writes and views into pure ops, or raises
        graph_module = program.module(check_guards=bool(guards))
        inline_modes(graph_module)
    assert isinstance(graph_module, fx.GraphModule)
    _drop_counters(graph_module, tuple(program.graph_signature.buffers_to_mutate.values()))
    return graph_module, autocast


def _drop_counters(graph_module: fx.GraphModule, changed: tuple[str, ...]) -> None:
    """Drop the writes into buffers that no output reads. Raises ReparamError for one that the result depends on."""
    graph = graph_module.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        if isinstance(node.args[0], fx.Node) and node.args[0].target in changed:
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)
    drop_dead_code(graph)
    read = next((node.target for node in graph.find_nodes(op="get_attr") if node.target in changed), None)
    if read is not None:
        raise ReparamError(
            f"forward writes into {read} and reads it, so its result changes from call to call; "
            "remove the write, or the hook or parametrization that makes it"
        )


def _by_fx(module: nn.Module, example: tuple[Tensor, ...]) -> Traced:
    axes = tuple(tuple(d != 1 for d in range(x.dim())) for x in example)
    return Traced(symbolic_graph(module, example), "torch.fx", axes)


def _may_be_open(example: tuple[Tensor, ...]) -> tuple[tuple[bool, ...], ...]:
    """The batch and spatial axes of each input."""
    batch = next((x.shape[0] for x in example if x.dim() >= 2), None)
    has_batch = [x.dim() >= 2 or (x.dim() == 1 and x.shape[0] == batch) for x in example]
    return tuple(
        tuple(own and axis in (0, 2, 3, 4) for axis in range(x.dim()))
        for x, own in zip(example, has_batch, strict=True)
    )


def _several(example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The example, with a batch of two for one of one."""
    pairs = zip(example, _may_be_open(example), strict=True)
    return tuple(torch.cat([x, x]) if any(free[:1]) and x.shape[0] == 1 else x for x, free in pairs)


def _guards(program: ExportedProgram) -> tuple[str, ...]:
    """What the sizes must satisfy where the trace took one for a number, or branched on one; mostly nothing.

    What every network has is taken out of the program's guards: that no size is 1 (the ops broadcast by themselves, and
    views of what they leave contiguous are reshapes here), and that the terms of a sum are equal (so do they check).
    """
    found = getattr(program, "_guards_code", None)
    if found is None:
        return ("sizes as traced",)
    needed = [
        guard
        for guard in found
        if _fixes_a_size(guard) or not (HARMLESS.fullmatch(guard) or _holds_but_for_ones(guard))
    ]
    program._guards_code = needed
    return tuple(re.sub(r"L\['(\w+)'\]", r"\1", guard) for guard in needed)


def _holds_but_for_ones(guard: str) -> bool:
    """Whether it is a·b != a·b·n or a·b % (a·b·n) != 0: about broadcasts and layouts, true of all sizes but n = 1."""
    match ast.parse(guard, mode="eval").body:
        case ast.Compare(ast.BinOp(part, ast.Mod(), whole), [ast.NotEq()], [ast.Constant(0)]):
            return Counter(_factors(part)) < Counter(_factors(whole))
        case ast.Compare(one, [ast.NotEq()], [other]):
            few, many = sorted((Counter(_factors(one)), Counter(_factors(other))), key=Counter.total)
            return few < many
    return False


def _fixes_a_size(guard: str) -> bool:
    """Whether it is a·b == n·b: a size that is a number, and no two terms of a sum."""
    match ast.parse(guard, mode="eval").body:
        case ast.Compare(one, [ast.Eq()], [other]):
            left, right = Counter(_factors(one)), Counter(_factors(other))
            return any(all(map(str.isdigit, rest)) for rest in (left - right, right - left))
    return False


def _factors(product: ast.expr) -> list[str]:
    match product:
        case ast.BinOp(left, ast.Mult(), right):
            return [*_factors(left), *_factors(right)]
    return [ast.unparse(product)]
