"""Which of a bundle's graphs and engines can run here, and which of them first."""

import warnings
from collections.abc import Iterable, Mapping, Sequence

from plainconv.exporter.bundle import EngineRecord, GraphRecord, Manifest
from plainconv.exporter.errors import EngineError, PlainconvWarning

from .backend import backends
from .cuda.gpu import find_gpu

FASTEST_FIRST = ("fp8+fp16", "fp8+bf16", "fp8", "int8+fp16", "int8+bf16", "int8", "fp16", "bf16", "fp32")
"""The order in which `load` takes engines of one backend."""


def why_not_run(record: EngineRecord, number: int = 0) -> str | None:
    """Why the GPU of that number cannot run an engine, with the remedy; None where it can. Imports nothing heavy."""
    backend = next((backend for backend in backends() if backend.name == record.backend), None)
    if backend is None:
        return f"{record.backend} is not a runtime this program knows; install the plainconv that built it"
    try:
        gpu = find_gpu(number)
    except EngineError as error:
        return str(error)
    if not backend.installed:
        return f"{backend.name} is not installed; {backend.remedy}"
    if backend.version != record.backend_version:
        return (
            f"it was built by {backend.name} {record.backend_version}, here is {backend.version}; "
            "build it again with `exporter build`"
        )
    if gpu.target not in record.targets:
        return f"it is for {', '.join(record.targets)}, the {gpu.name} here is {gpu.target}; build it for that"
    if record.device not in (None, gpu.name):
        return f"it is for an {record.device}, here is an {gpu.name}; build it again with `exporter build`"
    return None


def speed(record: EngineRecord) -> tuple[int, int]:
    """The rank of an engine, the fastest first: its backend's, then its precision's."""
    rank = {backend.name: i for i, backend in enumerate(backends())}
    of_precision = {name: i for i, name in enumerate(FASTEST_FIRST)}
    return rank.get(record.backend, len(rank)), of_precision.get(record.precision, len(of_precision))


def by_speed(engines: Iterable[EngineRecord], engine: str = "auto", precision: str = "auto") -> list[EngineRecord]:
    """Of these engines those that are asked for, the fastest first."""
    wanted = [r for r in engines if engine in ("auto", r.backend) and precision in ("auto", r.precision)]
    return sorted(wanted, key=speed)


def what_runs(engines: Iterable[EngineRecord], device: int = 0) -> tuple[str, dict[str, str]]:
    """What `load` would take on the GPU of that number, as far as the records tell; why not, for each file before it.

    An engine's file, or "onnxruntime".
    """
    reasons: dict[str, str] = {}
    for record in by_speed(engines):
        reason = why_not_run(record, device)
        if reason is None:
            return record.file, reasons
        reasons[record.file] = reason
    return "onnxruntime", reasons


def why_words(reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """What cannot run here, and why, in a line for each reason: the files, or else, that it is of."""
    return [f"{', '.join(files)} cannot run here: {reason}" for reason, files in reasons.items()]


def merged(some: Mapping[str, Sequence[str]], more: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The files of both for each reason."""
    return {reason: [*some.get(reason, ()), *more.get(reason, ())] for reason in {**some, **more}}


def say_why(reasons: Mapping[str, Sequence[str]], instead: str) -> None:
    """A PlainconvWarning for each reason why what was to run does not, and what runs in its place."""
    for words in why_words(reasons):
        warnings.warn(f"{words}; {instead} runs instead", PlainconvWarning, stacklevel=3)


def graph_of(manifest: Manifest, precision: str, part: str = "", *, on_cpu: bool = False) -> tuple[str, str]:
    """The ONNX file of that precision, or of a part of its split, and its hash.

    On a CPU it is the one laid out for that, where the bundle has one.

    Raises EngineError where the bundle has none.
    """
    if part:
        parts = [p for split in manifest.splits if split.precision == precision for p in split.parts]
        found = next((p for p in parts if p.name == part), None)
        if found is None:
            raise EngineError(f"there is no part {part} of a {precision} split in the bundle; see `exporter split`")
        return found.file, found.sha256
    for_cpu = manifest.cpu_graphs if on_cpu else ()
    graphs: dict[str, GraphRecord] = {graph.precision: graph for graph in (*manifest.graphs, *for_cpu)}
    link = next((link for link in manifest.chain if link.step == "onnx"), None)
    if link is None:
        raise EngineError("the draft has no ONNX model linked; link_onnx before building an engine")
    if precision == "fp32":
        return link.files[0], link.sha256
    if precision not in graphs:
        has = ", ".join(["fp32", *graphs])
        raise EngineError(
            f"there is no {precision} graph in the bundle, which has {has}; see `exporter build --precision`"
        )
    return graphs[precision].file, graphs[precision].sha256
