"""What a bundle's manifest says, as records, and what must hold between them. Pure: no file is read or written here.

`exporter/BUNDLE.md` is the specification; a name here is the name there.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FORMAT = "plainconv-bundle"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
MODEL = "model.onnx"
MODEL_DATA = "model.onnx.data"
DTYPES = ("bool", "int8", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,118}[A-Za-z0-9_-])?"
_FILE_NAME = re.compile(rf"(?:{_PART}/){{0,3}}{_PART}")

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its dtype as NumPy spells it, and its shape with symbolic axes as strings."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Link:
    """One link of the hash chain: what `step` produced, from the link whose hash is `parent` (None: the first link)."""

    step: str
    sha256: str
    parent: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of one input that an optimization profile covers, and the one it is tuned for."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class GraphRecord:
    """The network as ONNX in a lower precision: its inputs and outputs are those of the ONNX model it was made from.

    `layers` counts the convs and matrix products by the type they compute in. `kept` and `calibration` are JSON
    sections: the layers left in a wider type and why, what int8 and fp8 were calibrated on. `reference` is the file of
    what its parity is measured against, `tolerance` what that was held to.
    """

    file: str
    precision: str
    sha256: str
    onnx_sha256: str
    layers: Mapping[str, int]
    reference: str
    tolerance: float
    kept: tuple[JsonObject, ...] = ()
    calibration: JsonObject | None = None


@dataclass(frozen=True)
class EngineRecord:
    """One compiled engine: what it is, what it runs on, and the ONNX graph (by hash) it was built from.

    `layers` counts the convs and matrix products by the type they compute in; `options` are further settings of its
    builder, by name.
    """

    file: str
    backend: str
    backend_version: str
    precision: str
    tf32: bool
    targets: tuple[str, ...]
    device: str | None
    profiles: tuple[Mapping[str, ShapeRange], ...]
    seconds: float
    size: int
    sha256: str
    onnx_sha256: str
    layers: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, int] = field(default_factory=dict)
    log: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass
class Manifest:
    """Everything a manifest says. A writer fills it, except `files` and `written`, which leaving the block fills.

    `source`, `preprocessing`, `counts` and the members of `parities` are JSON sections: their values may hold
    dataclasses, tuples, paths and NumPy scalars (see `codec.plain_json`). `extra` holds further top-level keys.
    """

    name: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    preprocessing: JsonObject | None = None
    source: JsonObject = field(default_factory=dict)
    counts: JsonObject = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    parities: list[Any] = field(default_factory=list)
    chain: tuple[Link, ...] = ()
    graphs: tuple[GraphRecord, ...] = ()
    engines: tuple[EngineRecord, ...] = ()
    files: dict[str, FileRecord] = field(default_factory=dict)
    written: str = ""
    extra: JsonObject = field(default_factory=dict)


def sha256_of_files(files: Mapping[str, FileRecord]) -> str:
    r"""The hash of one file or of several as one thing, as `sha256sum` would print it.

    One file: its SHA-256. Several: SHA-256 of the lines "<sha256>  <name>\n", sorted by name.
    """
    if len(files) == 1:
        return next(iter(files.values())).sha256
    lines = (f"{files[name].sha256}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_of_arrays(arrays: "Mapping[str, np.ndarray[Any, Any]]") -> str:
    """The hash of named arrays: for a link that has no file, such as a network in memory.

    SHA-256 over, for each name in code-point order: name, NUL, dtype, NUL, shape as "64,3,3,3", NUL, little-endian
    bytes in C order.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}\0{array.dtype.name}\0{','.join(map(str, array.shape))}\0".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes())
    return digest.hexdigest()


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
        if record.size < 0 or not _SHA256.fullmatch(record.sha256)
    ]
    if len({name.lower() for name in files}) != len(files):
        found.append("two file names differ only in case")
    if MODEL not in files:
        found.append(f"{MODEL} is not among the files")
    for what, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        if not specs or len({spec.name for spec in specs}) != len(specs):
            found.append(f"{what} is empty or names one tensor twice")
        found += [f"{what}: {problem}" for spec in specs for problem in _tensor_problems(spec)]
    return found or [*_chain_problems(manifest), *_graph_problems(manifest), *_engine_problems(manifest)]


def _tensor_problems(spec: TensorSpec) -> list[str]:
    found = [] if spec.name else ["a tensor has no name"]
    if spec.dtype not in DTYPES:
        found.append(f"{spec.name} has dtype {spec.dtype!r}, wanted one of {', '.join(DTYPES)}")
    if not all(axis if isinstance(axis, str) else axis >= 1 for axis in spec.shape):
        found.append(f"{spec.name} has shape {list(spec.shape)}, wanted sizes of at least 1 or names")
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
    found: list[str] = []
    onnx = {link.sha256 for link in manifest.chain if link.step == "onnx"}
    links = [link for link in manifest.chain if link.step == "typed"]
    for graph in manifest.graphs:
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
    if len(links) != len(manifest.graphs) or len({g.precision for g in manifest.graphs}) != len(links):
        found.append(f"the chain has {len(links)} typed links for {len(manifest.graphs)} graphs, one a precision")
    return found


def _engine_problems(manifest: Manifest) -> list[str]:
    found: list[str] = []
    model = {link.sha256 for link in manifest.chain if link.step == "onnx"}
    graphs = {graph.sha256: graph.precision for graph in manifest.graphs}
    links = [link for link in manifest.chain if link.step == "engine"]
    ranks = {spec.name: len(spec.shape) for spec in manifest.inputs}
    for engine in manifest.engines:
        if manifest.files.get(engine.file) != FileRecord(engine.size, engine.sha256):
            found.append(f"engine {engine.file} is not among the files with the size and sha256 of its record")
        parents = [link.parent for link in links if link.files == (engine.file,)]
        if parents != [engine.onnx_sha256] or engine.onnx_sha256 not in model | graphs.keys():
            found.append(f"engine {engine.file} is not linked to the ONNX graph it was built from: the chain is broken")
        if graphs.get(engine.onnx_sha256, engine.precision) != engine.precision:
            made_of = graphs[engine.onnx_sha256]
            found.append(f"engine {engine.file} is {engine.precision}, but was built from the {made_of} graph")
        if not engine.targets or len(set(engine.targets)) != len(engine.targets):
            found.append(f"engine {engine.file} has targets {list(engine.targets)}, wanted at least one, none twice")
        if not all(_covers(covered, ranks.get(name)) for each in engine.profiles for name, covered in each.items()):
            found.append(f"engine {engine.file} has an optimization profile that is none of the model's inputs")
        if engine.log is not None and engine.log not in manifest.files:
            found.append(f"engine {engine.file} has a log {engine.log}, which is not among the files")
    if len(links) != len(manifest.engines) or len({e.file for e in manifest.engines}) != len(links):
        found.append(f"the chain has {len(links)} engine links for {len(manifest.engines)} engine records")
    return found


def _covers(covered: ShapeRange, rank: int | None) -> bool:
    """Whether an optimization profile's shapes are shapes of an input of this rank, in order."""
    if {len(covered.min), len(covered.opt), len(covered.max)} != {rank}:
        return False
    return all(1 <= a <= b <= c for a, b, c in zip(covered.min, covered.opt, covered.max, strict=True))
