"""A bundle's graphs beside the eager network in float64, module by module: `exporter validate --layers`."""

import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from torch import nn

from plainconv.engines.choice import graph_of, why_not_run

from ..bundle import Bundle, SplitRecord
from ..bundle.preprocessing import preprocessing_of_json
from ..errors import EngineError, SourceError
from ..onnx_file.file import write
from ..onnx_module import OnnxModule
from ..parity import Reference, values_of_module
from ..parity.inputs import DATA, LARGE, NORMAL
from ..parity.layers import (
    Boundary,
    Eager,
    Match,
    Matches,
    StepLayers,
    TorchForm,
    aligned,
    compare_layers,
)
from ..parity.segments import GROUPS, Segments
from ..parity.watch import tensors
from ..precision import emulated, load, precision_of_name
from ..progress import track
from ..reparam import reparameterize
from ..source.folded import FOLDED, fold_preprocessing
from ..source.network import Network, Request
from ..source.resolve import load_network
from ..surgery import run_passes
from ..to_onnx import MIN_OPSET
from ..to_onnx.export import graph_from_module
from .fused_layers import SERVED, EngineForm, Served, as_fused
from .lower_graphs import REFERENCE
from .steps import ONNX, PLAIN
from .typed_layers import compare_typed

__all__ = ["Boundary", "Layers", "StepLayers", "compare_bundle"]

IMAGES = 3
LOOSE = 0.5
"""How much of its spread a value may be off by, and still be found to be what it should have been."""
PART_ERROR = 1e-6
"""Of its spread: what a part may differ by from the whole, whose sums may be in another order."""


@dataclass(frozen=True)
class Layers:
    """What was found, form by form, and what is to be said of how."""

    steps: tuple[StepLayers, ...]
    notes: tuple[str, ...]

    @property
    def fault(self) -> tuple[StepLayers, Boundary] | None:
        """The first module at fault, in the first form that has one."""
        return next(((step, step.faults[0]) for step in self.steps if step.faults), None)


def compare_bundle(path: Path, source: str | None, request: Request) -> Layers:
    """Each module boundary of the network in each form that the bundle has, and of the plain one, made again.

    Without `source` the reference is the bundle's own ONNX model in float64, and boundaries are its values.

    Raises BundleError as `Bundle.open` does, and SourceError where `source` is not what the bundle was made of, or the
    ONNX model cannot be evaluated in float64.
    """
    bundle = Bundle.open(path)
    reference = Reference.load(bundle.file(REFERENCE))
    network = _network(bundle, source, request, reference)
    total = 5 + len(bundle.manifest.graphs) + len(bundle.splits)
    with track(f"{bundle.manifest.name}, layer by layer", total=total, unit="steps") as bar:
        bar.advance(0, "eager network")
        eager = Eager(network.module, _batches(bundle, reference), _labels(network.module))
        bar.advance(1, "plain network")
        model = _proto(bundle.onnx)
        plain, again = _made_again(bundle, network) if source is not None else (None, None)
        matches = _matches(model, again, eager, same=source is None)
        of_plain = {} if plain is None else aligned(values_of_module(plain, tensors(eager.batches[0])), eager.right[0])
        eager.keep(match.key for match in (*matches.values(), *of_plain.values()))
        form = Segments(model, matches)
        eager.inside = _inside(bundle, form, matches)
        steps = []
        if plain is not None:
            steps.append(compare_layers(PLAIN, TorchForm(plain, of_plain), eager, of_plain))
            del plain
        bar.advance(1, "ONNX")
        steps.append(compare_layers(ONNX, form, eager, matches, dtype=reference.dtype, bounded=form.bounded))
        bar.advance(1, SERVED)
        steps.append(as_fused(SERVED, Served(form), steps[-1], eager, matches))
        bar.advance(1, "")
        for graph in bundle.manifest.graphs:
            bar.advance(0, graph.precision)
            steps.append(compare_typed(bundle, graph, eager, matches))
            bar.advance(1, "")
        for split in bundle.splits:
            steps.append(_split(bundle, split, eager, matches))
            bar.advance(1, "")
        engines, left_out = _engines(bundle, steps, eager, matches)
        bar.advance(1, "")
    notes = [*_notes(source, len(matches), len(eager.order)), *left_out]
    return Layers((*steps, *engines), tuple(notes))


def _network(bundle: Bundle, source: str | None, request: Request, reference: Reference) -> Network:
    """The eager network, held to the start of the bundle's hash chain; else the ONNX model."""
    shape = (reference.batch, *reference.image_shape)
    if source is None:
        return load_network(str(bundle.onnx), Request(input_shape=shape))
    kept = bundle.manifest.source.get(FOLDED)
    folded = None if kept is None else preprocessing_of_json(kept)
    if folded is not None and folded.layout == "nchw":
        shape = tuple(shape[axis] for axis in (0, 3, 1, 2))  # of the network before bytes [N, H, W, C] went in
    request = request if request.input_shape is not None else replace(request, input_shape=shape)
    network = load_network(source, request)
    if folded is not None:
        network.preprocessing = folded
        fold_preprocessing(network)
    first = bundle.manifest.chain[0]
    if network.weights_sha256 != first.sha256:
        said = bundle.manifest.source
        checkpoint = (said.get("checkpoint") or {}).get("file")
        made_of = f"{said.get('source')}{f' with {checkpoint}' if checkpoint else ''}"
        raise SourceError(
            f"the weights of {source} have sha256 {network.weights_sha256[:12]}…, {bundle.folder} was made of "
            f"{first.sha256[:12]}… ({made_of}); give that SOURCE with the same --checkpoint or --random-init, and --set"
        )
    return network


def _labels(module: nn.Module) -> dict[str, str]:
    """The nodes of an ONNX file by the values that they give; the modules of a network have names of their own."""
    if not isinstance(module, OnnxModule):
        return {}
    return {name: step.name or step.op for step in module.steps for name in step.outputs if name}


def _batches(bundle: Bundle, reference: Reference) -> list[list[np.ndarray]]:
    """A few images: the user's own where a precision was calibrated on them, else random ones, one of high contrast."""
    graphs = bundle.manifest.graphs
    own = next((graph.reference for graph in graphs if graph.reference != REFERENCE), None)
    taken = reference if own is None else Reference.load(bundle.file(own))
    usual = [i for i, kind in enumerate(taken.kinds) if kind in (NORMAL, DATA)]
    rows = usual[:IMAGES] or [0]
    if LARGE in taken.kinds and not any(precision_of_name(graph.precision).quantized for graph in graphs):
        rows[-1] = taken.kinds.index(LARGE)
    batch = reference.batch
    starts = range(0, len(rows), batch)
    found = []
    for start in starts:
        some = [rows[min(i, len(rows) - 1)] for i in range(start, start + batch)]
        found.append([x[some[0]] if name in taken.whole else x[some] for name, x in taken.inputs.items()])
    return found


def _made_again(bundle: Bundle, network: Network) -> tuple[nn.Module | None, onnx.ModelProto]:
    """The plain network, where there is one, and the ONNX model, as this program makes them of the network now."""
    said = bundle.manifest.source
    dynamic_batch, sizes = said.get("dynamic_batch") is not None, said.get("dynamic_size")
    plain: nn.Module | None = None
    if network.given is None:
        plain, _ = reparameterize(network.module, network.examples, check=False, open_sizes=sizes is not None)
        graph = graph_from_module(
            plain,
            network.examples,
            input_names=tuple(network.inputs),
            dynamic_batch=dynamic_batch,
            dynamic_size=sizes is not None,
            opset=max(MIN_OPSET, ir.load(bundle.onnx).opset_imports[""]),
            output_names=network.output_names,
        )
    else:
        from ..source.onnx_source import graph_at

        ends = None if sizes is None else (tuple(sizes[0]), tuple(sizes[2]))
        graph = graph_at(network, dynamic_batch=dynamic_batch, sizes=ends)
    run_passes(graph, fixed_size=sizes is None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.onnx"
        write(graph, path, {})
        return plain, _proto(path)


def _proto(path: Path) -> onnx.ModelProto:
    """The graph at `path` as float32 with each rounding of a narrower type, which ONNX Runtime runs everywhere."""
    return ir.to_proto(emulated(load(path)))


def _matches(model: onnx.ModelProto, again: onnx.ModelProto | None, eager: Eager, *, same: bool) -> dict[str, Match]:
    """What of the eager network each value of the model is.

    That is what it equals; else what the value of the same node equals in the model made again; else, of what the model
    made again has and this one has not, what it is nearest to.
    """
    x, right = eager.batches[0], eager.right[0]
    values = _float_values(model, x)
    if same:
        return {n: Match(n, y.shape) for n, y in values.items() if n in right and float(np.std(right[n])) > 0}
    found = aligned(values, right)
    if again is not None:
        twins = dict(_twins(again, model))
        sound = aligned(_float_values(again, x), right)
        found = {twins[name]: match for name, match in sound.items() if name in twins} | found
        lost = {match.key for match in sound.values()} - {match.key for match in found.values()}
        rest = {name: y for name, y in values.items() if name not in found}
        found = aligned(rest, {key: right[key] for key in right if key in lost}, close=LOOSE) | found
    return found


def _inside(bundle: Bundle, form: Segments, matches: Matches) -> dict[str, list[str]]:
    """Value of the eager network → the modules that were merged into the nodes right before it."""
    merged = (bundle.manifest.extra.get("reparameterization") or {}).get("merged") or ()
    regions = {str(region["name"]): [str(module) for module in region["modules"]] for region in merged}
    of_node = {  # surgery may make two of one, called NAME_0 and NAME_1
        node.name: regions.get(node.name) or regions.get(re.sub(r"_\d+$", "", node.name), [])
        for node in form.model.graph.node
    }
    found: dict[str, list[str]] = {}
    for name, nodes in form.within.items():
        modules = [m for node, each in of_node.items() if node in nodes for m in each]
        inner = [m for m in modules if not any(other.startswith(f"{m}.") for other in modules)]
        found.setdefault(matches[name].key, []).extend(inner)
    return found


def _twins(again: onnx.ModelProto, model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """The values of nodes that both models have, by name and op: as the one calls them, and as the other does."""
    nodes = {(node.name, node.op_type): node for node in model.graph.node if node.name}
    for node in again.graph.node:
        twin = nodes.get((node.name, node.op_type))
        if twin is not None:
            yield from zip(node.output, twin.output, strict=False)


def _float_values(model: onnx.ModelProto, x: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    names = [name for node in model.graph.node for name in node.output if name]
    return {name: y for name, y in Segments(model, names).free(x).items() if y.dtype == np.float32}


def _split(bundle: Bundle, split: SplitRecord, eager: Eager, matches: Matches) -> StepLayers:
    """The parts of a graph beside the whole, on what the whole gives them: every value that both have."""
    file, _ = graph_of(bundle.manifest, split.precision)
    model = _proto(bundle.file(file))
    names = [name for node in model.graph.node for name in node.output if name]
    form = Segments(model, names)
    x = eager.batches[0]
    whole = form.free(x) | dict(zip((spec.name for spec in bundle.inputs), x, strict=True))
    within = eager.within(match.key for match in matches.values())
    behind = _first_behind(form, matches)
    found = []
    for part in split.parts:
        proto, own = _proto(bundle.file(part.file)), load(bundle.file(part.file))
        mine = Segments(proto, [name for node in proto.graph.node for name in node.output if name in whole])
        inputs = [_stored(whole, spec.name) for spec in part.inputs]
        values = mine.free([y for y in inputs if y is not None]) if all(y is not None for y in inputs) else {}
        for name in [str(v.name) for node in own.graph for v in node.outputs if str(v.name) in whole]:
            match = matches.get(name) or matches.get(behind.get(name, ""))
            if match is None:
                continue
            error, why = _part_error(_stored(values, name), _stored(whole, name))
            node = f"{part.name}: {mine.nodes[name]}"
            found.append(
                Boundary(eager.label(match.key), name, node, within[match.key], error, 0.0, error, PART_ERROR, why=why)
            )
            if error > PART_ERROR or why:
                break  # what follows in this part is computed from it
    return StepLayers(f"{split.precision} in parts", tuple(found))


def _stored(values: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """A value as it is stored, rounded to its type."""
    return values.get(f"{name}.exact", values.get(name))


def _part_error(value: np.ndarray | None, wanted: np.ndarray | None) -> tuple[float, str]:
    if value is None or wanted is None or value.shape != wanted.shape:
        return math.nan, "it does not run, or gives another shape"
    if wanted.dtype.kind != "f":
        return float(np.mean(value != wanted)), ""
    with np.errstate(all="ignore"):
        spread = float(np.std(wanted)) or 1.0
        off = np.where(value == wanted, 0.0, np.abs(value.astype(np.float64) - wanted))
    return float(np.max(off, initial=0.0)) / spread, ""


def _first_behind(form: Segments, matches: Matches) -> dict[str, str]:
    """For each value of the graph the first boundary that is computed from it."""
    found: dict[str, str] = {}
    for node in reversed(form.model.graph.node):
        found |= {name: name for name in node.output if name in matches}
        end = next((found[name] for name in node.output if name in found), None)
        found |= dict.fromkeys((name for name in node.input if end is not None), end or "")
    return found


def _engines(
    bundle: Bundle, steps: Sequence[StepLayers], eager: Eager, matches: Matches
) -> tuple[list[StepLayers], list[str]]:
    """The engines that run here, each beside its graph; a line for each reason why others were left out."""
    graphs = {step.step: step for step in steps}
    found, left_out = [], dict[str, list[str]]()
    for record in bundle.engines:
        reason = why_not_run(record, 0)
        if reason is None:
            graph = graphs.get(f"ONNX {record.precision}", graphs[ONNX])
            try:
                with EngineForm(bundle, record, list(matches)) as form:
                    found.append(as_fused(record.file, form, graph, eager, matches))
            except EngineError as error:
                reason = str(error)
        if reason is not None:
            left_out.setdefault(reason, []).append(record.file)
    return found, [f"{', '.join(files)} not compared: {reason}" for reason, files in left_out.items()]


def _notes(source: str | None, count: int, of: int) -> Iterator[str]:
    what = (
        f"the eager network {source}" if source is not None else "the bundle's ONNX model (give SOURCE for the eager)"
    )
    yield f"{count} values of the graph are among the {of} that end a module of {what}, in float64"
    yield f"{SERVED}, and engines: optimized, values read in {GROUPS} turns, so that most fusions are as when it serves"
