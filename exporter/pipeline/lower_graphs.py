"""The graphs of lower precisions in a bundle: made, held to float64, and not made twice."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Draft, GraphRecord, Manifest, sha256_of_arrays
from ..bundle.manifest import MODEL
from ..errors import CheckFailedError, ExportError, PlainconvWarning
from ..onnx_file.ir_graph import save
from ..onnx_file.layer_types import types_in_file
from ..parity import Reference, reference_from_module
from ..parity.inputs import DATA
from ..precision import CPU, Calibration, Precision, Typed, judged_by, precision_of_name, typed_model, typed_run
from ..source.network import InputSpec, Request
from ..source.resolve import load_network
from .steps import Steps, fed, onnx_run

REFERENCE = "reference.npz"
MAX_DATA = 256
"""The most of the user's images that a lower precision is held to."""
NAMED = 4
"""Layers that a warning names."""
DATA_BUDGET = 200e9
"""Multiply-accumulates that these may take in float64: half a minute on a small CPU."""


@dataclass(frozen=True)
class Wanted:
    """The graph of one precision: the images it is held to and calibrated on, by input, how, and the tolerance.

    What is None, or "auto", is left to whoever made the graph that the bundle has; but for random images, where
    `images_at_hand` says that there are better ones.
    """

    precision: Precision
    images: Mapping[str, np.ndarray] | None
    method: str
    tolerance: float | None
    images_at_hand: bool = False

    @property
    def sha256(self) -> str | None:
        """Of the images."""
        return None if self.images is None else sha256_of_images(self.images)

    def made_as(self, graph: GraphRecord) -> bool:
        """Whether `graph` is what is wanted."""
        made: Mapping[str, Any] = graph.calibration or {}
        return (
            graph.precision == self.precision.name
            and self.tolerance in (None, graph.tolerance)
            and self.sha256 in (None, made.get("sha256"))
            and not (self.images_at_hand and made.get("images") is None)
            and (not self.precision.quantized or self.method in ("auto", made.get("method")))
        )


def sha256_of_images(images: Mapping[str, np.ndarray]) -> str:
    """The hash of images; of those of a single input whatever it is called."""
    return sha256_of_arrays({"images": next(iter(images.values()))} if len(images) == 1 else images)


def graph_in(manifest: Manifest, wanted: Wanted) -> GraphRecord | None:
    """The graph that the bundle holds of just this; the ONNX model that it was made from never changes in a bundle."""
    return next((graph for graph in manifest.graphs if wanted.made_as(graph)), None)


def can_be_remade(graph: GraphRecord, wanted: Wanted) -> bool:
    """Whether what the graph was calibrated on is at hand."""
    return wanted.images is not None or (graph.calibration or {}).get("images") is None


def add_graph(draft: Draft, wanted: Wanted, eval_images: Mapping[str, np.ndarray] | None, steps: Steps) -> GraphRecord:
    """Make the graph of a precision, measure it, and add both to the draft."""
    precision, name = wanted.precision, wanted.precision.name
    _refuse_lower(draft.file(MODEL), name)
    reference, at = steps.reference, REFERENCE
    images = eval_images if wanted.images is None else wanted.images
    record: dict[str, Any] | None = None
    if images is not None:
        record = {"images": min(len(x) for x in images.values()), "sha256": sha256_of_images(images)}
        reference, at = _reference_on(images, draft, steps.reference)
    elif precision.quantized:
        record = {"images": None}
        _warn_of_random_images(name)
        images = judged_by(reference, precision).inputs
    calibration = Calibration(images, wanted.method) if precision.quantized and images is not None else None
    tolerance = precision.tolerance if wanted.tolerance is None else wanted.tolerance
    typed = typed_model(draft.file(MODEL), precision, reference, calibration=calibration, tolerance=tolerance)
    file = f"model.{name.replace('+', '_')}.onnx"
    if draft.file(f"{file}.data").exists():  # of an earlier one
        draft.remove(f"{file}.data")
    save(typed.model, draft.path(file))
    before = [graph.reference for graph in draft.manifest.graphs if graph.precision == name]
    onnx = next(link for link in draft.manifest.chain if link.step == "onnx")
    if record is not None and calibration is not None:
        record |= {"method": wanted.method, "chosen": typed.method}
    graph = draft.add_graph(
        GraphRecord(
            file=file,
            precision=name,
            sha256="",
            onnx_sha256=onnx.sha256,
            reference=at,
            tolerance=tolerance,
            calibration=record,
            **_layers_of(typed),
        )
    )
    for unused in set(before) - {REFERENCE, *(graph.reference for graph in draft.manifest.graphs)}:
        draft.remove(unused)
    check_graph(draft, graph, steps)
    warn_in_name(draft, graph)
    return graph


def _layers_of(typed: Typed) -> dict[str, Any]:
    """What a record says of the layers of a graph: how many are in each type, and which stay wider, and why."""
    types = sorted(typed.layers.values())
    kept = tuple({"layer": each.node, "type": each.type, "reason": each.reason} for each in typed.kept)
    return {"layers": {kind: types.count(kind) for kind in types}, "kept": kept}


def lacks_cpu_graph(manifest: Manifest, graph: GraphRecord, wanted: Wanted) -> bool:
    """Whether `graph` has none beside it for CPUs, and could have one: what it was calibrated on is at hand."""
    has = any(each.precision == graph.precision for each in manifest.cpu_graphs)
    return on_cpus(wanted.precision) and not has and can_be_remade(graph, wanted)


def on_cpus(precision: Precision) -> bool:
    """Whether a CPU has kernels in it that take another layout of Q/DQ than TensorRT's."""
    return precision.quantized == "int8" and precision.rest == "fp32"


def add_cpu_graph(
    draft: Draft, graph: GraphRecord, images: Mapping[str, np.ndarray] | None, steps: Steps
) -> str | None:
    """Make the graph for CPUs beside `graph`, of the same images, and add it, in the place of an earlier one.

    It is measured as ONNX Runtime serves it, in int8. Returns why there is none, where it does not hold.
    """
    name, precision = graph.precision, precision_of_name(graph.precision)
    draft.remove_cpu_graph(name)
    reference, made = Reference.load(draft.file(graph.reference)), graph.calibration or {}
    own = judged_by(reference, precision).inputs if images is None or made.get("images") is None else images
    calibration = Calibration(own, str(made.get("chosen") or "auto"))
    try:
        typed = typed_model(
            draft.file(MODEL), precision, reference, calibration=calibration, tolerance=graph.tolerance, layout=CPU
        )
    except (CheckFailedError, ExportError) as error:
        return str(error)
    file = f"model.{name.replace('+', '_')}.cpu.onnx"
    save(typed.model, draft.path(file))
    added = draft.add_cpu_graph(replace(graph, file=file, sha256="", **_layers_of(typed)))
    measured = replace(steps, failed=[], lost=[])
    check_cpu_graph(draft, added, measured)
    if measured.failed:
        draft.remove_cpu_graph(name)
    return measured.failed[0] if measured.failed else None


def check_cpu_graph(draft: Draft, graph: GraphRecord, steps: Steps) -> None:
    """A graph for CPUs against its reference, by ONNX Runtime and its kernels in int8."""
    run = onnx_run(draft.file(graph.file), draft.manifest.inputs)
    step = f"ONNX {graph.precision} for CPUs"
    steps.against(judge_of(draft, graph)).check(step, run, file=graph.file, tolerance=graph.tolerance)


def warn_in_name(draft: Draft, graph: GraphRecord) -> None:
    """Say it where fewer than half of the layers are in the precision that the graph is called by."""
    precision = precision_of_name(graph.precision)
    said = draft.manifest.extra.get("warnings")
    if said:
        old = (f"{graph.precision} in name", f"{graph.precision}: its engine")
        said[:] = [line for line in said if not line.startswith(old)]
    inside, total = graph.layers.get(precision.quantized or precision.rest, 0), sum(graph.layers.values())
    if 2 * inside >= total:
        return
    names = [str(kept["layer"]) for kept in graph.kept]
    named = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if names[NAMED:] else "")
    made_on = "" if (graph.calibration or {}).get("images") else "real images by --calibration, or "
    warn(
        draft,
        f"{graph.precision} in name: {inside} of {total} layers are in it ({named} stay wider); give {made_on}"
        "another --precision",
    )


def warn(draft: Draft, line: str) -> None:
    """Say one line on stderr, and keep it in the bundle."""
    warnings.warn(line, PlainconvWarning, stacklevel=2)
    kept = draft.manifest.extra.setdefault("warnings", [])
    if line not in kept:
        kept.append(line)


def check_graph(draft: Draft, graph: GraphRecord, steps: Steps) -> None:
    """A graph of a lower precision against its reference, its roundings computed as an engine computes them."""
    run = fed(typed_run(draft.file(graph.file)), [spec.dtype for spec in draft.manifest.inputs])
    step = f"ONNX {graph.precision}"
    steps.against(judge_of(draft, graph)).check(step, run, file=graph.file, tolerance=graph.tolerance)


def judge_of(draft: Draft, graph: GraphRecord) -> Reference:
    """What a graph of a lower precision is held to."""
    return judged_by(Reference.load(draft.file(graph.reference)), precision_of_name(graph.precision))


def _warn_of_random_images(name: str) -> None:
    warnings.warn(
        f"{name} is calibrated on random images, as none were given, and says nothing of real ones; give --calibration",
        PlainconvWarning,
        stacklevel=3,
    )


def _refuse_lower(model: Path, name: str) -> None:
    """Raise ExportError where the ONNX model, of a file that was given, is not fp32 itself."""
    lower = sorted(set(types_in_file(model).values()) - {"fp32"})
    if {"int8", "fp8"} & set(lower):
        raise ExportError(
            f"the network is quantized already ({', '.join(lower)}), and its own scales stay; build it as it is, or "
            f"export the float network for {name}"
        )
    if lower:
        raise ExportError(
            f"the network computes in {', '.join(lower)} as it is, {name} is made of one in fp32; export that one"
        )


def _reference_on(images: Mapping[str, np.ndarray], draft: Draft, base: Reference) -> tuple[Reference, str]:
    """The ONNX model, which parity holds to the eager network, in float64 on the user's images; and its file.

    One that another precision has made of the same images is taken as it is.
    """
    file = f"reference.{sha256_of_images(images)[:8]}.npz"
    if draft.file(file).exists():
        return Reference.load(draft.file(file)), file
    macs = float(draft.manifest.counts.get("onnx", {}).get("macs") or 0)
    count = min(MAX_DATA, max(2, int(DATA_BUDGET / macs) if macs else MAX_DATA))
    shapes = {
        name: x.shape[1:] if name in base.whole else (base.batch, *x.shape[1:]) for name, x in base.inputs.items()
    }
    specs = [InputSpec(spec.name, shapes[spec.name], spec.dtype) for spec in draft.manifest.inputs]
    network = load_network(str(draft.file(MODEL)), Request(inputs=tuple(specs)))
    reference = reference_from_module(
        network.module,
        network.inputs,
        output_names=base.names,
        macs=macs or None,
        longest_sum=base.longest_sum,
        data={name: x[:count] for name, x in images.items()},
        max_data=count,
    ).of_kinds((DATA,))
    reference.save(draft.path(file))
    return reference, file
