"""What a bundle's manifest says, as records. Pure: no file is read or written here.

`exporter/BUNDLE.md` is the specification; a name here is the name there.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .postprocessing import Postprocessing
from .preprocessing import Preprocessing
from .tensor import TensorSpec

if TYPE_CHECKING:
    import numpy as np

FORMAT = "plainconv-bundle"
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
MODEL = "model.onnx"
MODEL_DATA = "model.onnx.data"
CPU_STEP = "typed-cpu"
"""The step of the hash chain that makes one of `cpu_graphs`."""

JsonObject = dict[str, Any]


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
    sections: the layers left in a wider type and why, the images that these were chosen and int8 is calibrated on.
    `reference` is the file of what its parity is measured against, `tolerance` what the RMS error was held to.
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


@dataclass(frozen=True)
class PartRecord:
    """One part of a split network: an ONNX graph in a file of its own, and the device and stream that it runs on.

    `inputs` and `outputs` are the file's. `sources` says for each input which part it comes from, by name; None for an
    input of the network.
    """

    name: str
    file: str
    sha256: str
    device: int
    stream: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sources: Mapping[str, str | None]


@dataclass(frozen=True)
class SplitRecord:
    """A graph of the bundle, the one with the hash `onnx_sha256`, as parts that run on several devices or streams.

    `parts` are in an order in which they can run, for `devices` of `streams` streams each; the network's inputs lie on
    device 0, where its outputs are wanted. `results` says for each output of the network which part it is taken from
    (None: it is an input). `engines` are those of parts: an engine's `onnx_sha256` is its part's `sha256`. `plan` is a
    JSON section: how the split was found, and what it is expected to take.
    """

    precision: str
    onnx_sha256: str
    devices: int
    streams: int
    parts: tuple[PartRecord, ...]
    results: Mapping[str, str | None]
    engines: tuple[EngineRecord, ...] = ()
    plan: JsonObject = field(default_factory=dict)


@dataclass
class Manifest:
    """Everything a manifest says. A writer fills it, except `files` and `written`, which leaving the block fills.

    `cpu_graphs` are graphs in the precisions of `graphs`, laid out for what runs them on a CPU.

    `source`, `counts` and the members of `parities` are JSON sections: their values may hold
    dataclasses, tuples, paths and NumPy scalars (see `codec.plain_json`). `extra` holds further top-level keys.
    """

    name: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    preprocessing: Preprocessing | None = None
    postprocessing: Postprocessing | None = None
    classes: tuple[str, ...] = ()
    source: JsonObject = field(default_factory=dict)
    counts: JsonObject = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    parities: list[Any] = field(default_factory=list)
    chain: tuple[Link, ...] = ()
    graphs: tuple[GraphRecord, ...] = ()
    cpu_graphs: tuple[GraphRecord, ...] = ()
    engines: tuple[EngineRecord, ...] = ()
    splits: tuple[SplitRecord, ...] = ()
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
