"""An nn.Module as a functional torch.fx graph of ATen calls, by torch.export."""

import contextlib
import logging
import operator
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from ..errors import ReparamError, first_line
from .graph import attribute

_METADATA_CHECKS = {
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_scalar.default,
    torch._assert,
}


def trace(module: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """The module's graph: functional (no in-place writes), batch and spatial sizes symbolic wherever the module allows.

    The graph shares the module's parameters and buffers; neither module is changed. Raises ReparamError for a module in
    train mode and for one that torch.export cannot trace.
    """
    training = next((name or "the network" for name, m in module.named_modules() if m.training), None)
    if training is not None:
        raise ReparamError(f"{training} is in train mode; reparameterization needs eval mode: call .eval() first")
    try:
        with quiet():
            program = _export(module, example)
            if any(_writes(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # turns in-place writes and views into pure ops, or raises
            graph_module = program.module(check_guards=False)
    except ReparamError:
        raise
    except Exception as error:
        raise ReparamError(
            f"{type(module).__name__} cannot be traced by torch.export ({first_line(error)}); "
            "it needs a forward without data-dependent control flow"
        ) from error
    assert isinstance(graph_module, fx.GraphModule)
    _drop_checks(graph_module)
    _restore_batch_norms(graph_module)
    for node in graph_module.graph.find_nodes(op="get_attr"):
        node.meta.setdefault("val", attribute(graph_module, str(node.target)))
    return graph_module


def _export(module: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """torch.export with the batch and spatial axes left symbolic if the module takes it, else at the example's size.

    A size of 1 cannot be symbolic, so a batch of one is traced as two.
    """
    dynamic = tuple({d: Dim.AUTO for d in range(x.dim()) if d != 1} if x.dim() >= 2 else {} for x in example)
    several = tuple(torch.cat([x, x]) if x.dim() >= 2 and x.shape[0] == 1 else x for x in example)
    with torch.no_grad():
        try:
            return torch.export.export(module, several, dynamic_shapes=dynamic, strict=False)
        except Exception:
            return torch.export.export(module, example, strict=False)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _drop_checks(graph_module: fx.GraphModule) -> None:
    """Remove assertions on shapes and dtypes, and what only they read."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target in _METADATA_CHECKS:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph_module.recompile()


def _restore_batch_norms(graph_module: fx.GraphModule) -> None:
    """Write batch norm on running statistics as one op again; the decompositions make a tuple of it."""
    aten, graph = torch.ops.aten, graph_module.graph
    for node in graph.find_nodes(op="call_function", target=aten._native_batch_norm_legit_no_training.default):
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
    graph.eliminate_dead_code()
    graph_module.recompile()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch.export's own warnings and log lines kept from the user: its failures arrive as exceptions."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
