"""A graph of a lower precision, boundary by boundary, beside the same made anew: what it is off by, and its scales."""

from dataclasses import replace

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

    A layer that the same layers made anew explain is at fault all the same where a scale is another than its images
    give: what int8 costs may hide that on the images at hand. That takes the images that it was calibrated on, which a
    bundle holds unless there were too many.
    """
    precision, name = precision_of_name(graph.precision), f"ONNX {graph.precision}"
    typed, reference = load(bundle.file(graph.file)), Reference.load(bundle.file(graph.reference))
    form = _form(typed, matches)
    step = compare_layers(name, form, eager, matches)
    kept = {str(each.get("layer")): str(each.get("type")) for each in graph.kept}
    made = graph.calibration or {}
    again = typed_again(bundle.onnx, precision, kept, reference, str(made.get("chosen") or "minmax"))
    step = explained_by(step, compare_layers(name, _form(again, matches), eager, matches))
    if made.get("images") in (None, len(judged_by(reference, precision).kinds)):
        off = scales_off(typed, again)
        why = {value: off[read] for value, names in form.reads.items() for read in sorted(names & off.keys())}
        step = replace(step, boundaries=tuple(replace(b, why=b.why or why.get(b.value, "")) for b in step.boundaries))
    return with_causes(step, form, eager, matches, most=MOST_CAUSES)


def scales_off(typed: ir.Model, again: ir.Model) -> dict[str, str]:
    """The scales of `typed` that are others in `again`, made of the same images, by their names; and how far off."""
    found = {}
    theirs = _scales(again)
    for name, scale in _scales(typed).items():
        if name in theirs and theirs[name].shape == scale.shape:
            ratio = (scale / theirs[name]).ravel()
            worst = float(ratio[np.argmax(np.abs(np.log(ratio)))])
            if not 1 / SAME <= worst <= SAME:
                found[name] = f"the scale {name} is {worst:.3g} times what its images give"
    return found


def _scales(model: ir.Model) -> dict[str, np.ndarray]:
    """What the nodes that quantize and widen again multiply by, constants all of them."""
    read = [n.inputs[1] for n in model.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    held = [v for v in read if v is not None and v.const_value is not None]
    return {str(v.name): v.const_value.numpy().astype(np.float64) for v in held if v.const_value is not None}


def _form(typed: ir.Model, matches: Matches) -> Segments:
    """A typed graph whose values are read as they are stored: rounded."""
    model = ir.to_proto(emulated(typed))
    made = {name for node in model.graph.node for name in node.output}
    return Segments(model, matches, {name: f"{name}.exact" for name in matches if f"{name}.exact" in made})
