"""What must hold between the records of a manifest. Pure: no file is read or written here.

`exporter/BUNDLE.md` is the specification; `problems` is all of it that the manifest alone can break.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import escaped
from .manifest import (
    CPU_STEP,
    MANIFEST,
    MODEL,
    MODEL_DATA,
    EngineRecord,
    FileRecord,
    GraphRecord,
    Manifest,
    PartRecord,
    ShapeRange,
    SplitRecord,
    sha256_of_files,
)
from .postprocessing import classes_of, misread, not_averaged
from .preprocessing import misfit
from .tensor import DTYPES, PART_DTYPES, TensorSpec

MOST_SIZE = 2**63 - 1
"""Of a file, and of a tensor's axis."""
MOST_DEVICES = 1024
"""Of a split, and streams of a device: more than any machine has."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,118}[A-Za-z0-9_-])?"
_FILE_NAME = re.compile(rf"(?:{_PART}/){{0,3}}{_PART}")


def is_file_name(name: str) -> bool:
    """Whether a bundle may hold a file of this name: at most four levels of portable ASCII, nothing that climbs out."""
    return _FILE_NAME.fullmatch(name) is not None and name.lower() != MANIFEST


def problems(manifest: Manifest) -> list[str]:
    """Everything that the manifest says and may not say; sizes and hashes in `files` are taken as true."""
    files = manifest.files
    found = [f"{name!r} is no file name that a bundle may hold" for name in files if not is_file_name(name)]
    found += [
        f"files.{name} is not a size and a sha256"
        for name, record in files.items()
        if not 0 <= record.size <= MOST_SIZE or not _SHA256.fullmatch(record.sha256)
    ]
    if len({name.lower() for name in files}) != len(files):
        found.append("two file names differ only in case")
    if MODEL not in files:
        found.append(f"{MODEL} is not among the files")
    for what, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        if not specs or len({spec.name for spec in specs}) != len(specs):
            found.append(f"{what} is empty or names one tensor twice")
        found += [f"{what}: {problem}" for spec in specs for problem in _tensor_problems(spec)]
    checks = (_image_problems, _chain_problems, _graph_problems, _engine_problems, _split_problems)
    return [escaped(problem) for problem in found or [each for check in checks for each in check(manifest)]]


def _tensor_problems(spec: TensorSpec, dtypes: Sequence[str] = DTYPES) -> list[str]:
    found = [] if spec.name else ["a tensor has no name"]
    if spec.dtype not in dtypes:
        found.append(f"{spec.name} has dtype {spec.dtype!r}, wanted one of {', '.join(dtypes)}")
    if not all(axis if isinstance(axis, str) else 1 <= axis <= MOST_SIZE for axis in spec.shape):
        found.append(f"{spec.name} has shape {list(spec.shape)}, wanted sizes of at least 1 or names")
    return found


def _image_problems(manifest: Manifest) -> list[str]:
    """Of what is said of images, and of classes."""
    fit = None if manifest.preprocessing is None else misfit(manifest.preprocessing, manifest.inputs)
    record, names = manifest.postprocessing, manifest.classes
    read = None if record is None else misread(record, manifest.outputs)
    count = None if record is None or read is not None else classes_of(record, manifest.outputs)
    crops = 1 if manifest.preprocessing is None else manifest.preprocessing.crops
    found = [problem for problem in (fit, read, not_averaged(crops, record)) if problem is not None]
    if names and count not in (None, len(names)):
        found.append(f"classes has {len(names)} names, the network tells {count} apart")
    return found


def _chain_problems(manifest: Manifest) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()
    for i, link in enumerate(manifest.chain):
        at = f"chain[{i}] ({link.step})"
        if not _SHA256.fullmatch(link.sha256):
            found.append(f"{at} has no sha256")
        if (link.parent not in seen) if i else (link.parent is not None):
            found.append(f"{at} does not start from an earlier link: the chain is broken")
        missing = [name for name in link.files if name not in manifest.files]
        if missing:
            found.append(f"{at} names {missing[0]}, which is not among the files")
        elif link.files and link.sha256 != sha256_of_files({name: manifest.files[name] for name in link.files}):
            found.append(f"{at} does not have the hash of {' and '.join(link.files)}: the chain is broken")
        seen.add(link.sha256)
    graphs = [link.files for link in manifest.chain if link.step == "onnx"]
    wanted = {MODEL, MODEL_DATA} & set(manifest.files)
    if len(graphs) != 1 or set(graphs[0]) != wanted:
        found.append(f'the chain needs exactly one link "onnx", over {" and ".join(sorted(wanted))}')
    return found


def _graph_problems(manifest: Manifest) -> list[str]:
    kinds = {"typed": manifest.graphs, CPU_STEP: manifest.cpu_graphs}
    return [problem for step, graphs in kinds.items() for problem in _problems_of_graphs(manifest, graphs, step)]


def _problems_of_graphs(manifest: Manifest, graphs: Sequence[GraphRecord], step: str) -> list[str]:
    """What is wrong with graphs whose links are `step`."""
    found: list[str] = []
    onnx = {link.sha256 for link in manifest.chain if link.step == "onnx"}
    links = [link for link in manifest.chain if link.step == step]
    for graph in graphs:
        files = tuple(name for name in (graph.file, f"{graph.file}.data") if name in manifest.files)
        own = [link for link in links if link.files == files]
        if [(link.sha256, link.parent) for link in own] != [(graph.sha256, graph.onnx_sha256)]:
            found.append(f"graph {graph.file} is not linked to the ONNX model it was made from: the chain is broken")
        if graph.onnx_sha256 not in onnx:
            found.append(f"graph {graph.file} was made from an ONNX model that is not in the bundle")
        if graph.reference not in manifest.files:
            found.append(f"graph {graph.file} has a reference {graph.reference}, which is not among the files")
        if graph.precision == "fp32":
            found.append(f"graph {graph.file} is fp32, wanted a lower precision: fp32 is {MODEL}")
        if not 0 < graph.tolerance < math.inf:
            found.append(f"graph {graph.file} has tolerance {graph.tolerance}, wanted a positive number")
    if len(links) != len(graphs) or len({graph.precision for graph in graphs}) != len(links):
        found.append(f"the chain has {len(links)} {step} links for {len(graphs)} graphs, one a precision")
    return found


@dataclass(frozen=True)
class _Graph:
    """What an engine may be built from: the precision that it then is (None: any), and the ranks of its inputs."""

    precision: str | None
    ranks: Mapping[str, int]


def _engine_problems(manifest: Manifest) -> list[str]:
    ranks = {spec.name: len(spec.shape) for spec in manifest.inputs}
    model = {link.sha256: _Graph(None, ranks) for link in manifest.chain if link.step == "onnx"}
    typed = {graph.sha256: _Graph(graph.precision, ranks) for graph in manifest.graphs}
    found = _problems_of_engines(manifest, manifest.engines, "engine", model | typed)
    return found + _count_problems(manifest, manifest.engines, "engine")


def _problems_of_engines(
    manifest: Manifest, engines: Sequence[EngineRecord], step: str, graphs: Mapping[str, _Graph]
) -> list[str]:
    """What is wrong with engines whose links are `step` and that are built from `graphs`, by hash."""
    found: list[str] = []
    links = [link for link in manifest.chain if link.step == step]
    for engine in engines:
        if manifest.files.get(engine.file) != FileRecord(engine.size, engine.sha256):
            found.append(f"engine {engine.file} is not among the files with the size and sha256 of its record")
        parents = [link.parent for link in links if link.files == (engine.file,)]
        graph = graphs.get(engine.onnx_sha256)
        if parents != [engine.onnx_sha256] or graph is None:
            found.append(f"engine {engine.file} is not linked to the ONNX graph it was built from: the chain is broken")
        if graph is not None and graph.precision not in (None, engine.precision):
            found.append(f"engine {engine.file} is {engine.precision}, but was built from the {graph.precision} graph")
        if not engine.targets or len(set(engine.targets)) != len(engine.targets):
            found.append(f"engine {engine.file} has targets {list(engine.targets)}, wanted at least one, none twice")
        ranks = {} if graph is None else graph.ranks
        if not all(_covers(covered, ranks.get(name)) for each in engine.profiles for name, covered in each.items()):
            found.append(f"engine {engine.file} has an optimization profile that is none of the model's inputs")
        if engine.log is not None and engine.log not in manifest.files:
            found.append(f"engine {engine.file} has a log {engine.log}, which is not among the files")
    return found


def _count_problems(manifest: Manifest, engines: Sequence[EngineRecord], step: str) -> list[str]:
    count = sum(link.step == step for link in manifest.chain)
    if count == len(engines) == len({engine.file for engine in engines}):
        return []
    return [f"the chain has {count} {step} links for {len(engines)} engine records"]


def _split_problems(manifest: Manifest) -> list[str]:
    found: list[str] = []
    sources = {link.sha256: "fp32" for link in manifest.chain if link.step == "onnx"}
    sources |= {graph.sha256: graph.precision for graph in manifest.graphs}
    for split in manifest.splits:
        at = f"split {split.precision}"
        if sources.get(split.onnx_sha256) != split.precision:
            found.append(f"{at} is not of the {split.precision} graph of the bundle: the chain is broken")
        if not (1 <= split.devices <= MOST_DEVICES and 1 <= split.streams <= MOST_DEVICES):
            said = f"{at} is for {split.devices} devices of {split.streams} streams"
            found.append(f"{said}, wanted 1 to {MOST_DEVICES} of each")
        if not split.parts or len({part.name.lower() for part in split.parts}) != len(split.parts):
            found.append(f"{at} has no parts, or two of one name")
        found += [f"{at}: {problem}" for problem in _wiring_problems(split, manifest)]
        for part in split.parts:
            found += [f"{at}: part {part.name} {problem}" for problem in _part_problems(part, split, manifest)]
    parts = [(split, part) for split in manifest.splits for part in split.parts]
    links = [link for link in manifest.chain if link.step == "part"]
    if len(links) != len(parts) or len({split.precision for split in manifest.splits}) != len(manifest.splits):
        found.append(f"the chain has {len(links)} part links for {len(parts)} parts, and no precision is split twice")
    for split in manifest.splits:
        ranks = {part.sha256: {spec.name: len(spec.shape) for spec in part.inputs} for part in split.parts}
        graphs = {sha256: _Graph(split.precision, each) for sha256, each in ranks.items()}
        found += _problems_of_engines(manifest, split.engines, "part-engine", graphs)
    engines = [engine for split in manifest.splits for engine in split.engines]
    return found + _count_problems(manifest, engines, "part-engine")


def _part_problems(part: PartRecord, split: SplitRecord, manifest: Manifest) -> list[str]:
    found = [] if part.name else ["has no name"]
    files = tuple(name for name in (part.file, f"{part.file}.data") if name in manifest.files)
    own = [link for link in manifest.chain if link.step == "part" and link.files == files]
    if [(link.sha256, link.parent) for link in own] != [(part.sha256, split.onnx_sha256)]:
        found.append("is not linked to the graph it is a part of: the chain is broken")
    if not (0 <= part.device < split.devices and 0 <= part.stream < split.streams):
        found.append(f"is on device {part.device}, stream {part.stream}, which the split does not have")
    for what, specs in (("inputs", part.inputs), ("outputs", part.outputs)):
        if len({spec.name for spec in specs}) != len(specs) or (what == "outputs" and not specs):
            found.append(f"has no {what}, or names one twice")
        found += [f"{what}: {problem}" for spec in specs for problem in _tensor_problems(spec, PART_DTYPES)]
    return found


def _wiring_problems(split: SplitRecord, manifest: Manifest) -> list[str]:
    """Inputs of parts, and outputs of the network, that do not come from where they are said to."""
    found: list[str] = []
    inputs = {spec.name: spec.dtype for spec in manifest.inputs}
    made: dict[tuple[str | None, str], str] = {(None, name): dtype for name, dtype in inputs.items()}
    for part in split.parts:
        if set(part.sources) != {spec.name for spec in part.inputs}:
            found.append(f"part {part.name} has sources for other inputs than its own")
        found += [
            f"part {part.name} reads {spec.name} of {part.sources.get(spec.name) or 'the network'}, which does not "
            f"give it as {spec.dtype} before"
            for spec in part.inputs
            if made.get((part.sources.get(spec.name), spec.name)) != spec.dtype
        ]
        made |= {(part.name, spec.name): spec.dtype for spec in part.outputs}
    if set(split.results) != {spec.name for spec in manifest.outputs}:
        found.append("its results are not the outputs of the network")
    return found + [
        f"output {spec.name} is taken from {split.results.get(spec.name) or 'the inputs'}, which do not give it"
        for spec in manifest.outputs
        if made.get((split.results.get(spec.name), spec.name)) != spec.dtype
    ]


def _covers(covered: ShapeRange, rank: int | None) -> bool:
    """Whether an optimization profile's shapes are shapes of an input of this rank, in order."""
    if {len(covered.min), len(covered.opt), len(covered.max)} != {rank}:
        return False
    return all(1 <= a <= b <= c for a, b, c in zip(covered.min, covered.opt, covered.max, strict=True))
