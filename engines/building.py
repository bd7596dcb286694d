"""Building engines from the graphs of a bundle, into it."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from plainconv.exporter.bundle import (
    Bundle,
    Draft,
    EngineRecord,
    FileRecord,
    Manifest,
    plain_json,
    sha256_of_file,
    sha256_of_files,
    update_bundle,
    write_whole,
)
from plainconv.exporter.errors import EngineError, PlainconvWarning, write_refused

from .backend import Backend, choose
from .choice import graph_of
from .cuda.gpu import find_gpu
from .options import BuildOptions
from .tensorrt.bindings import import_runtime
from .tensorrt.build import Compiled, check_options, compile_onnx
from .tensorrt.targets import checked_targets, targets_for


def build(
    bundle: Path | str,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    options: BuildOptions = BuildOptions(),
    rebuild: bool = False,
) -> EngineRecord:
    """Build an engine from a bundle's graph of that precision into the bundle, in the place of one built the same way.

    Nothing is built, and the bundle left as it is, where it holds this very engine: of the same graph, options and
    backend version, for the same GPUs. `rebuild` builds it all the same.

    See `BuildOptions`, and `choose` for `engine`. Graphs of lower precisions are made by `exporter build`. Raises
    EngineError where the engine cannot be built, and BundleError where the bundle cannot be opened or written; either
    way it stays as it was.
    """
    found = (
        None if rebuild else built(Bundle.open(bundle).manifest, engine=engine, precision=precision, options=options)
    )
    if found is not None:
        return found
    with update_bundle(bundle) as draft:
        return build_into(draft, engine=engine, precision=precision, options=options)


def built(
    manifest: Manifest,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    options: BuildOptions = BuildOptions(),
    part: str = "",
) -> EngineRecord | None:
    """The engine that `build` would build, where the bundle holds it already; with `part` that of a part of its split.

    Raises EngineError as `build` does.
    """
    backend, options = builder_of(engine, options.device), _of_part(options, part)
    check_options(backend, options)
    trt = import_runtime(backend)
    _, graph = graph_of(manifest, precision, part)
    targets = checked_targets(trt, backend, options.targets, options.device)
    targets = targets_for(backend, targets, precision.split("+"), chosen=bool(options.targets))
    device = None if backend.builds_without_gpu else find_gpu(options.device).name
    wanted = (backend.name, str(trt.__version__), device, graph, options.tf32, targets, options.profiles)
    engines = manifest.engines
    if part:
        engines = next(split.engines for split in manifest.splits if split.precision == precision)
    for record in engines:
        made = (record.backend, record.backend_version, record.device)
        same = (*made, record.onnx_sha256, record.tf32, record.targets, record.profiles)
        if same == wanted and record.options == _settings(options):
            return record
    return None


def build_into(
    draft: Draft,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    options: BuildOptions = BuildOptions(),
    part: str = "",
) -> EngineRecord:
    """As `build`, always, into a bundle that is still being written and has its ONNX graph of that precision.

    With `part`, from a part of its split: the profiles of `options` are then for the part's inputs.
    """
    backend, options = builder_of(engine, options.device), _of_part(options, part)
    graph, sha256 = graph_of(draft.manifest, precision, part)
    compiled = compile_onnx(draft.file(graph), backend, options)
    _check_file(draft.file(graph), compiled)
    for warning in compiled.warnings:
        warnings.warn(f"{backend.name}: {warning}", PlainconvWarning, stacklevel=2)
    if precision == "fp32" and not part:  # the model itself, which an ONNX file may have given in another
        precision = compiled.precision
    name = "/".join(["engines", *([part] if part else []), _name(backend, compiled, precision, options)])
    draft.path(f"{name}.engine").write_bytes(compiled.data)
    draft.path(f"{name}.log").write_text(compiled.log, encoding="utf-8")
    record = _record(
        compiled,
        backend,
        options,
        name=f"{name}.engine",
        precision=precision,
        file=draft.record(f"{name}.engine"),
        onnx_sha256=sha256,
        log=f"{name}.log",
    )
    draft.add_engine(record)
    return record


def build_engine(
    onnx: Path | str,
    out: Path | str,
    *,
    engine: str = "auto",
    options: BuildOptions = BuildOptions(),
) -> EngineRecord:
    """Build an engine from any ONNX file into the file `out`, without a bundle.

    Options are `build`'s. Raises EngineError where it cannot be built, or `out` not be written.
    """
    onnx, out = Path(onnx), Path(out)
    if not out.parent.is_dir() or out.is_dir():
        raise EngineError(f"{out}: no file can be written there; name one in a folder that exists")
    backend = builder_of(engine, options.device)
    compiled = compile_onnx(onnx, backend, options)
    _check_file(onnx, compiled)
    with write_refused(out, EngineError):
        write_whole(out, compiled.data)
    sources = [path for path in (onnx, onnx.with_name(f"{onnx.name}.data")) if path.exists()]
    graph = sha256_of_files({path.name: _file_record(path) for path in sources})
    return _record(
        compiled,
        backend,
        options,
        name=out.name,
        precision=compiled.precision,
        file=_file_record(out),
        onnx_sha256=graph,
        log=None,
    )


def check_request(engine: str = "auto", options: BuildOptions = BuildOptions(), *, precision: str = "fp32") -> None:
    """Raise EngineError where `build` could not build such an engine here: before the work that leads up to it."""
    backend = builder_of(engine, options.device)
    check_options(backend, options)
    targets = checked_targets(import_runtime(backend), backend, options.targets, options.device)
    targets_for(backend, targets, precision.split("+"), chosen=bool(options.targets))


FOREIGN = ("uint8", "int16", "uint16")
"""Types that an ONNX graph may round to and no kernel computes in."""


def check_precision(wanted: Mapping[str, str], found: Mapping[str, str], file: str) -> None:
    """Raise EngineError where a layer computes in another type than its ONNX graph says: `wanted`, by node name.

    A layer that the builder does not list by that name (one that it computed away) is passed over, unless it lists
    fewer layers of a type than the graph has.
    """
    for name, precision in wanted.items():
        if precision in FOREIGN:
            raise EngineError(
                f"{file}: {name} reads {precision}, and TensorRT rounds to int8 alone; quantize with int8, zero point 0"
            )
        if found.get(name, precision) != precision:
            raise EngineError(
                f"{file}: {name} would compute in {found[name]}, the graph says {precision}; "
                "the precision did not take effect, report the network"
            )
    missing = Counter(wanted.values()) - Counter(found.values())
    if missing:
        precision, count = next(iter(missing.items()))
        raise EngineError(
            f"{file}: {count} of {len(wanted)} layers that the graph has in {precision} are not so in the engine; the "
            "precision did not take effect, report the network"
        )


def builder_of(engine: str, device: int = 0) -> Backend:
    """The backend that builds `engine`. Raises EngineError as `choose` does, and for "none"."""
    backend = choose(engine, device)
    if backend is None:
        raise EngineError("engine 'none' builds nothing; wanted one of auto, tensorrt, tensorrt_rtx")
    return backend


def _of_part(options: BuildOptions, part: str) -> BuildOptions:
    """The options for a part: the streams of its split are all that it is to have, if nothing else is asked for."""
    return replace(options, max_aux_streams=0) if part and options.max_aux_streams is None else options


def _check_file(onnx: Path, compiled: Compiled) -> None:
    from plainconv.exporter.onnx_file.layer_types import types_in_file

    check_precision(types_in_file(onnx), compiled.layers, onnx.name)


def _settings(options: BuildOptions) -> dict[str, int]:
    """What of the options a record keeps under `options`."""
    settings = {
        "workspace": options.workspace,
        "optimization_level": options.optimization_level,
        "max_aux_streams": options.max_aux_streams,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _name(backend: Backend, compiled: Compiled, precision: str, options: BuildOptions) -> str:
    """The same options give the same name, so that a rebuild replaces what it rebuilds."""
    parts = [backend.name, precision.replace("+", "_") + ("-tf32" if compiled.tf32 else ""), "_".join(compiled.targets)]
    settings = {"profiles": options.profiles, **_settings(options)}
    if options.profiles or _settings(options):  # of which one may be 0
        text = json.dumps(plain_json(settings), sort_keys=True)
        parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
    return "-".join(parts)


def _file_record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, sha256_of_file(path))


def _record(
    compiled: Compiled,
    backend: Backend,
    options: BuildOptions,
    *,
    name: str,
    precision: str,
    file: FileRecord,
    onnx_sha256: str,
    log: str | None,
) -> EngineRecord:
    return EngineRecord(
        file=name,
        backend=backend.name,
        backend_version=compiled.version,
        precision=precision,
        tf32=compiled.tf32,
        targets=compiled.targets,
        device=compiled.device,
        profiles=compiled.profiles,
        seconds=compiled.seconds,
        size=file.size,
        sha256=file.sha256,
        onnx_sha256=onnx_sha256,
        layers=dict(sorted(Counter(compiled.layers.values()).items())),
        options=_settings(options),
        log=log,
        warnings=compiled.warnings,
    )
