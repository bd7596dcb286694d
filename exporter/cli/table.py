"""A bundle as tables that a person reads, or as JSON with the same content."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..bundle import Bundle, EngineRecord, GraphRecord, Manifest, ShapeRange, SplitRecord, default_of, slice_words
from ..bundle.codec import plain_json

if TYPE_CHECKING:
    from ..pipeline.evaluate import Evaluation

NARROW = 100  # columns where the output is not a terminal
_MEASURES = {"rms": "RMS ", "agreement": "differ ", "overlap": "1 − IoU "}
"""What an error is, where it is not the largest."""
FORMS = ("training", "plain", "onnx, as traced", "onnx")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller, where rich would end the program."""
        raise BrokenPipeError


def _console() -> Console:
    console = _Console(highlight=False)
    return console if console.is_terminal else _Console(highlight=False, width=NARROW)


def bundle_table(bundle: Bundle) -> None:
    """Print what the bundle holds: network, sizes, parities with their tolerances, engines, seconds."""
    manifest = bundle.manifest
    console = _console()
    console.print(
        f"{manifest.name} · {bundle.folder} · every file verified", style="bold", markup=False, soft_wrap=True
    )
    for line in _source_lines(manifest.source):
        console.print(line, markup=False, soft_wrap=True)
    tensors = [", ".join(map(str, specs)) for specs in (bundle.inputs, bundle.outputs)]
    console.print(f"inputs {tensors[0]} · outputs {tensors[1]}", markup=False, soft_wrap=True)
    for line in _image_lines(manifest):
        console.print(line, markup=False, soft_wrap=True)
    console.print(_sizes(manifest.counts))
    for line in _reparameterization_lines(manifest.extra.get("reparameterization") or {}):
        console.print(line, markup=False, soft_wrap=True)
    console.print(_parities(manifest.parities))
    for line in (*_parts(manifest.parities), *_reasons(manifest.parities), *_left_out(manifest.extra)):
        console.print(line, markup=False, soft_wrap=True)
    if manifest.graphs or manifest.cpu_graphs:
        graphs = (*manifest.graphs, *manifest.cpu_graphs)
        console.print(_graphs(graphs))
        for line in (*_kept_lines(manifest.graphs), *_kept_lines(manifest.cpu_graphs, " for CPUs")):
            console.print(line, markup=False, soft_wrap=True)
    if bundle.engines:
        console.print(_engines(bundle.engines))
    else:
        console.print("no engine: `exporter build` makes one; ONNX Runtime runs the ONNX graph as it is")
    if bundle.splits:
        console.print(_splits(bundle.splits))
    seconds: Mapping[str, float] = manifest.extra.get("seconds", {})
    if seconds:
        parts = ", ".join(f"{step} {value:.1f}" for step, value in seconds.items())
        console.print(f"seconds: {parts}; {sum(seconds.values()):.1f} in all")


def models_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the catalogue."""
    table = _table("name", "family", "parameters", "plain", "input")
    for row in rows:
        shape = "×".join(map(str, row["input"]))
        table.add_row(row["name"], row["family"], millions(row["parameters"]), millions(row["parameters_plain"]), shape)
    _console().print(table)


def rows_table(lines: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `lines`, and below them one table of text."""
    console = _console()
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def as_json(bundle: Bundle) -> dict[str, Any]:
    """The same as one JSON object; the manifest's own names (exporter/BUNDLE.md)."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "bundle": str(bundle.folder),
        "source": plain_json(manifest.source),
        "inputs": plain_json(bundle.inputs),
        "outputs": plain_json(bundle.outputs),
        "counts": plain_json(manifest.counts),
        "parities": plain_json(manifest.parities),
        "graphs": plain_json(manifest.graphs),
        "cpu_graphs": plain_json(manifest.cpu_graphs),
        "engines": plain_json(bundle.engines),
        "splits": plain_json(bundle.splits),
        **plain_json(manifest.extra),
    }


def millions(count: int) -> str:
    """1234567 → 1.23 M."""
    return f"{count / 1e6:.2f} M"


def _table(*columns: str) -> Table:
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def evaluation_table(found: "Sequence[Evaluation]", images: int) -> None:
    """Print the scores of each graph and engine, and why others were not run."""
    console = _console()
    table = _table(f"of {images} images", *next((each.scores for each in found if each.scores), {}))
    for each in found:
        if each.scores:
            label = f"{each.file} ({each.precision}, {each.backend})"
            table.add_row(label, *(f"{score:.4f}" for score in each.scores.values()))
    console.print(table)
    for each in found:
        if each.reason:
            console.print(f"{each.file} was not run: {each.reason}", markup=False, soft_wrap=True)


def _image_lines(manifest: Manifest) -> list[str]:
    """How an image becomes the input, and what the outputs mean."""
    if manifest.preprocessing is None:
        return []
    record = manifest.postprocessing or default_of(manifest.outputs)
    kind = "nothing is said of outputs" if record is None or record.kind == "none" else record.kind
    names = f" · {len(manifest.classes)} classes: {', '.join(manifest.classes[:3])}…" if manifest.classes else ""
    return [f"images {manifest.preprocessing} · {kind}{names}"]


def _source_lines(source: Mapping[str, Any]) -> list[str]:
    checkpoint = source.get("checkpoint")
    if checkpoint:
        known = {k: v for k, v in checkpoint.items() if k not in ("file", "sha256") and v is not None}
        details = ", ".join(f"{key} {value}" for key, value in known.items())
        return [f"weights {checkpoint['file']} ({details}), sha256 {checkpoint['sha256'][:16]}…"]
    if "random_init" in source:
        return [f"random weights, seed {source['random_init']}"]
    return []


def _sizes(counts: Mapping[str, Any]) -> Table:
    table = _table("form", "parameters", "MACs", "convs", "norms", "nodes", "file")
    for form in (*FORMS, *(form for form in counts if form not in FORMS)):
        row = counts.get(form)
        if row is None:
            continue
        size = row.get("bytes")
        table.add_row(
            form,
            millions(row["parameters"]) if "parameters" in row else "",
            f"{row['macs'] / 1e6:.1f} M" if "macs" in row else "unknown" if "nodes" in row else "",
            *(str(row.get(key, "")) for key in ("convs", "norms", "nodes")),
            f"{size / 1e6:.2f} MB" if size else "",
        )
    return table


def _reparameterization_lines(record: Mapping[str, Any]) -> list[str]:
    if "regions" not in record:
        return []
    check = record.get("end_to_end")
    line = f"{record['regions']} regions merged"
    if isinstance(check, Mapping):
        shapes = ", ".join("×".join(map(str, shape)) for shape in check["shapes"])
        line += f"; end to end in float64 off by {check['error']:.1e} at {shapes}, at most {check['tolerance']:.1e}"
    elif check is not None:
        line += f"; end to end {check}"
    return [line, *(f"left alone {reason}" for reason in record.get("left_alone") or ())]


def _parities(parities: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("parity with float64", "output", "error", "tolerance", "top-1", "accuracy", "status")
    for p in parities:
        table.add_row(
            p["step"],
            f"{p.get('output') or ''}{slice_words(p.get('axis'), p.get('index'))}",
            f"{_MEASURES.get(p.get('measure', ''), '')}{p['error']:.2e}" if p.get("error") is not None else "",
            f"{p['tolerance']:.2e}" if p.get("tolerance") is not None else "",
            f"{p['top1']:.2%}" if p.get("top1") is not None else "",
            _share(p.get("accuracy")),
            str(p["status"]).partition(":")[0],
        )
    return table


def _parts(parities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which outputs are judged index by index."""
    found = {
        p.get("output"): f"{p.get('output')}: each of {p.get('parts')} along axis {p['parts_axis']} by its own spread"
        for p in parities
        if p.get("parts_axis") is not None
    }
    return list(found.values())


def _reasons(parities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each status that has a reason, behind the steps that have it."""
    steps: dict[str, dict[str, None]] = {}
    for p in parities:
        if ": " in p["status"]:
            steps.setdefault(p["status"], {})[p["step"]] = None
    return [f"{', '.join(names)}: {status}" for status, names in steps.items()]


def _left_out(extra: Mapping[str, Any]) -> list[str]:
    """The precisions that could not be, and why."""
    return [f"{each.get('precision')} left out: {each.get('reason')}" for each in extra.get("left_out") or ()]


def _share(accuracy: Mapping[str, Any] | None) -> str:
    if accuracy is None:
        return ""
    if "scores" in accuracy:
        return ", ".join(f"{name} {score:.4f}" for name, score in accuracy["scores"].items())
    correct, images = accuracy["correct"], accuracy["images"]
    return f"{correct}/{images} = {correct / images:.2%}"


def _graphs(graphs: Sequence[GraphRecord]) -> Table:
    table = _table("graph", "layers", "kept wider", "chosen on")
    for graph in graphs:
        layers = ", ".join(f"{count} {kind}" for kind, count in graph.layers.items())
        table.add_row(graph.file, layers, str(len(graph.kept)), _calibrated_on(graph.calibration))
    return table


def _calibrated_on(calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return ""
    images = calibration.get("images")
    how = calibration.get("chosen")
    return f"{'random' if images is None else images} images" + (f", {how}" if how else "")


def _kept_lines(graphs: Sequence[GraphRecord], whom: str = "", most: int = 8) -> list[str]:
    """Which layers a graph of a lower precision leaves in a wider type, and why."""
    lines = []
    for graph in graphs:
        lines += [
            f"{graph.precision}{whom}: {kept.get('layer')} stays in {kept.get('type')}, {kept.get('reason')}"
            for kept in graph.kept[:most]
        ]
        if len(graph.kept) > most:
            lines.append(f"{graph.precision}{whom}: and {len(graph.kept) - most} more; --json names them")
    return lines


def _engines(engines: Sequence[EngineRecord]) -> Table:
    table = _table("engine", "precision", "targets", "shapes", "size", "seconds")
    for e in engines:
        table.add_row(
            f"{e.backend} {e.backend_version}",
            e.precision,
            " ".join(e.targets),
            ", ".join(dict.fromkeys(_covered(r) for profile in e.profiles for r in profile.values())) or "fixed",
            f"{e.size / 1e6:.2f} MB",
            f"{e.seconds:.1f}",
        )
    return table


def _splits(splits: Sequence[SplitRecord]) -> Table:
    table = _table("split", "parts", "devices", "streams", "sent", "predicted", "part engines")
    for split in splits:
        predicted = split.plan.get("prediction") or {}
        known = all(predicted.get(key) for key in ("whole", "seconds")) and predicted.get("edges") is not None
        table.add_row(
            split.precision,
            *(str(n) for n in (len(split.parts), split.devices, split.streams)),
            f"{sum(edge['bytes'] for edge in predicted['edges']) / 1e6:.2f} MB" if known else "",
            f"{predicted['whole'] / predicted['seconds']:.2f}×" if known else "",
            ", ".join(dict.fromkeys(e.backend for e in split.engines)) or "none",
        )
    return table


def _covered(covered: ShapeRange) -> str:
    """What of the shape an optimization profile leaves open: "1:8:32" images, "160×160:224×224:320×320" pixels."""
    shapes = (covered.min, covered.opt, covered.max)
    batches, sizes = [str(shape[0]) for shape in shapes], ["×".join(map(str, shape[2:])) for shape in shapes]
    return " ".join(":".join(parts) for parts in (batches, sizes) if len(set(parts)) > 1) or batches[0]
