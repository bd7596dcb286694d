"""A graph of a lower precision, boundary by boundary, beside the same made anew: what it is off by, what it stores."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..bundle import Bundle, GraphRecord
from ..parity import Reference
from ..parity.layers import Eager, Matches, StepLayers, compare_layers, explained_by, with_causes
from ..parity.segments import Segments
from ..precision import emulated, judged_by, load, precision_of_name, typed_again

MOST_CAUSES = 16
"""Layers whose effect on the output is measured: each takes a run of the network."""
SAME = 1.1
"""How many times as large a scale may be as the same images give it on another machine, whose sums differ a little."""


def compare_typed(bundle: Bundle, graph: GraphRecord, eager: Eager, matches: Matches) -> StepLayers:
    """The graph at its boundaries, its layers ranked by what they cause at the output.

    A layer that the same layers made anew explain is at fault all the same where it stores something else than these:
    what int8 costs may hide that on the images at hand. To tell so of the scales of what layers read takes the images
    that they were calibrated on, which a bundle holds unless there were too many.
    """
    precision, name = precision_of_name(graph.precision), f"ONNX {graph.precision}"
    typed, reference = load(bundle.file(graph.file)), Reference.load(bundle.file(graph.reference))
    form = _form(typed, matches)
    step = compare_layers(name, form, eager, matches, bounded=form.bounded)
    kept = {str(each.get("layer")): str(each.get("type")) for each in graph.kept}
    made = graph.calibration or {}
    again = typed_again(bundle.onnx, precision, kept, reference, str(made.get("chosen") or "minmax"))
    step = explained_by(step, compare_layers(name, _form(again, matches), eager, matches))
    same_images = made.get("images") in (None, len(judged_by(reference, precision).kinds))
    off = stored_otherwise(typed, again, same_images=same_images)
    why = {value: off[read] for value, names in form.reads.items() for read in sorted(names & off.keys())}
    step = replace(step, boundaries=tuple(replace(b, why=b.why or why.get(b.value, "")) for b in step.boundaries))
    return with_causes(step, form, eager, matches, most=MOST_CAUSES)


def stored_otherwise(typed: ir.Model, again: ir.Model, *, same_images: bool) -> dict[str, str]:
    """The constants of Q/DQ nodes that differ by more than rounding from those of the like, by name, and how.

    Weights, their scales and zero points are those of the same float32 weights; the others only of the same images.
    """
    found = {}
    theirs = {each.name: each.values for each in _stored(again)}
    for each in _stored(typed):
        like = theirs.get(each.name)
        if like is None or like.shape != each.values.shape or not (each.of_weight or same_images):
            continue
        own, right = each.values.astype(np.float64).ravel(), like.astype(np.float64).ravel()
        if each.is_scale:
            with np.errstate(all="ignore"):
                ratio = own / right
                worst = float(ratio[np.argmax(np.abs(np.log(ratio)))])
            if not 1 / SAME <= worst <= SAME:
                found[each.name] = f"the scale {each.name} is {worst:.3g} times what its {each.source} give"
        else:
            step = 1.0 if each.values.dtype.kind in "iu" else np.abs(right) / 8  # fp8 has three bits behind the first
            count = int((~(np.abs(own - right) <= step)).sum())
            if count:
                found[each.name] = f"{count} of the {own.size} numbers {each.name} are not what its {each.source} give"
    return found


@dataclass(frozen=True)
class _Constant:
    """What a Q/DQ node reads: a scale, or stored numbers or their zero point, of a weight or of what layers read."""

    name: str
    values: np.ndarray
    is_scale: bool
    of_weight: bool

    @property
    def source(self) -> str:
        """What it was made of."""
        return "weights" if self.of_weight else "images"


def _stored(model: ir.Model) -> Iterator[_Constant]:
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            of_weight = node.inputs[0] is not None and node.inputs[0].const_value is not None
            for place, value in enumerate(node.inputs):
                if value is not None and value.const_value is not None:
                    yield _Constant(str(value.name), value.const_value.numpy(), place == 1, of_weight)


def _form(typed: ir.Model, matches: Matches) -> Segments:
    """A typed graph whose values are read as they are stored: rounded."""
    model = ir.to_proto(emulated(typed))
    made = {name for node in model.graph.node for name in node.output}
    return Segments(model, matches, {name: f"{name}.exact" for name in matches if f"{name}.exact" in made})
