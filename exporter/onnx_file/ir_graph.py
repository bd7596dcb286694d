"""An ONNX graph of onnx_ir, made ready to work on, and written. Imports neither torch nor a runtime."""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import (
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
    ShapeInferencePass,
)

_BESIDE = 2**30
"""Bytes of weights from which on they go to a file of their own: a protobuf message holds 2 GB."""


def save(model: ir.Model, path: Path) -> None:
    """Write `model` to `path`; weights beyond 1 GB to `path` + ".data" beside it."""
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    ir.save(model, path, external_data=f"{path.name}.data" if size > _BESIDE else None)


def settled(model: ir.Model, *, shapes: bool = False) -> ir.Model:
    """`model`, in place: every node has a name, none twice, constants are initializers, and types are known.

    With `shapes` these too. What ONNX cannot infer, as behind an op of another domain, stays unknown.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    RemoveInitializersFromInputsPass()(model)
    infer(model, shapes=shapes)
    taken: set[str] = set()
    for node in model.graph:
        name = node.name or node.op_type.lower()
        while name in taken:
            name += "_"
        node.name = name
        taken.add(name)
    return model


def infer(model: ir.Model, *, shapes: bool = False) -> None:
    """Infer the types that `model` leaves out, with `shapes` its shapes too; nothing is done where none is missing."""
    values = (value for node in model.graph for value in node.outputs if value.name)
    if any(value.dtype is None or (shapes and value.shape is None) for value in values):
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=shapes)(model)
