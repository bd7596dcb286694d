"""A float32 graph → the same in a lower precision, where measuring allows it."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx.helper import find_min_ir_version_for, make_opsetid

from ..errors import CheckFailedError, ExportError, one_line
from ..onnx_file.ir_graph import settled
from ..onnx_file.layer_types import types_of_layers
from ..parity import Reference, Run
from ..parity.inputs import DATA, NORMAL
from ..parity.names import AGREEMENT
from ..progress import track
from .calibrate import QUICK, Calibration, lows_of, ranges_of
from .edit import load, opset_of
from .formats import FLOATS, QUANTIZED, Precision
from .keep import Kept, beyond_range, layers_to_keep, units_of
from .layout import ENGINE, Layout
from .narrow import narrow
from .quantize import quantize
from .run import peaks_of, run_of

FEW = 4
"""Images on which layers are compared with one another; what is decided is measured on all."""


@dataclass(frozen=True)
class Typed:
    """A graph in a lower precision, which held its tolerance.

    `layers` gives, for each conv and matrix product, the type it computes in; `kept` those that stay in a wider type
    though the precision was asked for, and why; `method` how the ranges of int8 and fp8 were chosen.
    """

    precision: Precision
    model: ir.Model
    layers: Mapping[str, str]
    kept: tuple[Kept, ...]
    method: str | None


@dataclass(frozen=True)
class _Maker:
    """Typed graphs of one float32 `model`, whose layers are `units`, and what each is off by."""

    model: ir.Model
    precision: Precision
    units: Mapping[str, frozenset[str]]
    wide: frozenset[str] = frozenset()
    layout: Layout = ENGINE
    ranges: Mapping[str, float] = field(default_factory=dict)
    lows: Mapping[str, float] = field(default_factory=dict)

    def model_with(self, kept: Set[str]) -> ir.Model:
        """The graph with the layers `kept` not quantized, or, where nothing is, in float32; `wide` are in float32."""
        typed = self.model.clone()
        wide, left = self._nodes(self.wide), self._nodes(self.wide | kept)
        quantized, rest = self.precision.quantized, FLOATS.get(self.precision.rest, ir.DataType.FLOAT)
        if quantized:
            quantize(typed, QUANTIZED[quantized], self.ranges, left, rest, self.layout, self.lows)
        if rest != ir.DataType.FLOAT:
            narrow(typed, rest, wide if quantized else left)
        return typed

    def _nodes(self, layers: Set[str]) -> frozenset[str]:
        return frozenset(node for name in layers for node in self.units[name])

    def holds(self, kept: Set[str], judge: Reference, tolerance: float) -> bool:
        """Whether every output is within its tolerance."""
        return not any(parity.failed for parity in judge.judge("", self._run(kept, judge), tolerance))

    def error(self, kept: Set[str], judge: Reference, tolerance: float) -> float:
        """Its largest error, in units of the output's spread; infinite where it is not a number.

        Of integers, whose share that differs has a tolerance of its own, as much of `tolerance` as that is of theirs.
        """
        return tolerance * max(p.used for p in judge.judge("", self._run(kept, judge), tolerance))

    def _run(self, kept: Set[str], judge: Reference) -> Run:
        run = run_of(self.model_with(kept))
        types = [np.dtype(value.dtype.numpy()) for value in self.model.graph.inputs if value.dtype is not None]
        return lambda *arrays: run(*(x.astype(t, copy=False) for x, t in zip(arrays, types, strict=True)))


def typed_model(
    onnx: Path,
    precision: Precision,
    reference: Reference,
    *,
    calibration: Calibration | None = None,
    tolerance: float | None = None,
    layout: Layout = ENGINE,
) -> Typed:
    """The float32 graph at `onnx` in `precision`; its inputs and outputs stay as they are.

    Layers that meet values beyond the type's range stay in float32; those without which the rest does not hold its
    tolerance too, or, in int8 or fp8 with another type around it, in that.

    Args:
        onnx: the file, float32 throughout.
        precision: any but fp32.
        reference: what the outputs are held to, in float64. int8 and fp8 are held to it on the user's images, or else
            the random ones, alone: a hot pixel or twice the contrast is beyond any calibrated range.
        calibration: the images that int8 and fp8 are calibrated on; by default the reference's own.
        tolerance: in units of the outputs' spread; that of the precision where it is None.
        layout: whom a graph in int8 is for.

    Raises:
        CheckFailedError: no layer can be in `precision` within the tolerance.
        ExportError: the graph has no layer that could, or cannot be brought to the opset that the precision needs.

    """
    judge = judged_by(reference, precision)
    limit = precision.tolerance if tolerance is None else tolerance
    model = _in_opset(load(onnx), precision)
    units = units_of(model)
    if not units:
        raise ExportError(
            f"{onnx.name} has no conv or matrix product with a constant weight, and so no {precision.name}"
        )
    with track(f"{precision.name}: layers tried", total=None, unit="layers") as bar:
        large: tuple[Kept, ...] = ()
        if precision.rest == "fp16":
            inputs, whole = _by_name(model, reference.inputs), _whole(model, reference)
            peaks = peaks_of(model, inputs, reference.batch, whole)
            large = beyond_range(model, units, peaks, FLOATS["fp16"])
        wide = frozenset(kept.node for kept in large)
        maker, method = _calibrated(_Maker(model, precision, units, wide, layout), calibration, judge, limit)
        few, free = judge.first(FEW), units.keys() - wide
        alone = layers_to_keep(
            [name for name in units if name in free],
            holds=lambda kept: maker.holds(kept, judge, limit),
            error_alone=lambda name: maker.error(free - {name}, few, limit),
            tried=lambda name: bar.advance(1, name),
        )
    left_in = precision.rest if precision.quantized else "fp32"
    off = {name: f"alone {error:.2g} of the spread off (RMS)" for name, error in alone.items()}
    kept = (*large, *(Kept(name, left_in, reason) for name, reason in off.items()))
    typed = maker.model_with(alone.keys())
    layers = types_of_layers(typed)
    if (precision.quantized or precision.rest) not in layers.values():
        remedy = "calibrate on images like those it will see, or " if precision.quantized else ""
        raise CheckFailedError(
            f"{onnx.name}: no layer can be {precision.name} with outputs within {limit:g} of their spread (RMS), and "
            f"the largest score, or integer, as it is in {AGREEMENT:.0%} of the places; "
            f"{remedy}allow more with --tolerance"
        )
    kept = (*kept, *_unable(model, units, layers, precision, {layer.node for layer in kept}))
    return Typed(precision, typed, layers, kept, method)


def typed_again(
    onnx: Path, precision: Precision, kept: Mapping[str, str], reference: Reference, method: str
) -> ir.Model:
    """The graph that `typed_model` made: with these layers in these wider types, its ranges by `method` once more.

    They are of the images of `reference`, which are some of those that it was calibrated on.
    """
    model = _in_opset(load(onnx), precision)
    units = units_of(model)
    wide = frozenset(name for name, kind in kept.items() if kind == "fp32" and name in units)
    judge = judged_by(reference, precision)
    calibration = Calibration(judge.inputs, method)
    maker, _ = _calibrated(_Maker(model, precision, units, wide), calibration, judge, precision.tolerance)
    return maker.model_with(kept.keys() & units.keys())


def _unable(
    model: ir.Model,
    units: Mapping[str, frozenset[str]],
    layers: Mapping[str, str],
    precision: Precision,
    kept: Set[str],
) -> tuple[Kept, ...]:
    """The layers, besides those `kept`, whose op is not to be had in the precision."""
    wanted = precision.quantized or precision.rest
    ops = {str(node.name): node.op_type for node in model.graph}
    return tuple(
        Kept(name, layers[name], f"this {ops[name]} cannot be in {wanted}")
        for name in units
        if name not in kept and layers.get(name, wanted) != wanted
    )


def judged_by(reference: Reference, precision: Precision) -> Reference:
    """What of `reference` a precision is held to: int8 and fp8 to the user's images, or to the random ones alone."""
    return reference.of_kinds((DATA if DATA in reference.kinds else NORMAL,)) if precision.quantized else reference


def typed_run(path: Path) -> Run:
    """The typed graph at `path`, run as `run_of` does."""
    return run_of(load(path))


def _calibrated(
    maker: _Maker, calibration: Calibration | None, judge: Reference, tolerance: float
) -> tuple[_Maker, str | None]:
    """`maker` with the ranges that its precision needs, by the best of the methods asked for."""
    if not maker.precision.quantized:
        return maker, None
    asked = calibration or Calibration(judge.inputs)
    images, whole = _by_name(maker.model, asked.images), _whole(maker.model, judge)
    methods = QUICK if asked.method == "auto" else (asked.method,)
    if maker.layout.affine:
        maker = replace(maker, lows=lows_of(maker.model, images, judge.batch, whole))
    makers, failed = {}, None
    for method in methods:
        try:
            found = ranges_of(maker.model, images, method, judge.batch, whole, maker.layout)
            makers[method] = replace(maker, ranges=found)
        except ExportError as error:  # numbers so large or small that a histogram of them has no bins
            failed = error
    if not makers and failed is not None:
        raise failed
    if len(makers) == 1:
        return next(iter(makers.values())), next(iter(makers))
    best = min(makers, key=lambda method: makers[method].error(frozenset(), judge, tolerance))
    return makers[best], best


def _by_name(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays in the order of the inputs of `model`, by the names and in the types that these have there."""
    return {
        str(value.name): x if value.dtype is None else x.astype(value.dtype.numpy(), copy=False)
        for value, x in zip(model.graph.inputs, inputs.values(), strict=True)
    }


def _whole(model: ir.Model, reference: Reference) -> frozenset[str]:
    """The inputs without a batch axis, as `model` calls them."""
    names = zip(model.graph.inputs, reference.inputs, strict=True)
    return frozenset(str(value.name) for value, name in names if name in reference.whole)


def _in_opset(model: ir.Model, precision: Precision) -> ir.Model:
    """`model` in an operator set in which its ops take the precision."""
    if opset_of(model) >= precision.min_opset:
        return model
    from onnxscript import version_converter

    try:
        version_converter.convert_version(model, precision.min_opset, fallback=True)
    except Exception as error:  # an adapter raises what it happens to
        reason = (
            f"cannot be converted from opset {opset_of(model)} to {precision.min_opset}, which {precision.name} needs"
        )
        raise ExportError(f"the graph {reason} ({one_line(error)}); export it at a newer opset") from error
    model.ir_version = max(model.ir_version, find_min_ir_version_for([make_opsetid("", opset_of(model))]))
    return settled(model)
