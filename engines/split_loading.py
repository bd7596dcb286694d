"""Running a split network: the engines of its parts on GPUs, or ONNX Runtime on groups of this machine's cores."""

from collections.abc import Mapping, Sequence
from typing import Any

from plainconv.exporter.bundle import Bundle, Draft, EngineRecord, ShapeRange, SplitRecord
from plainconv.exporter.errors import EngineError

from .choice import say_why, speed, why_not_run, why_words
from .cuda.gpu import gpu_count
from .cuda.runtime import CudaRuntime
from .onnxruntime.split import OnnxRuntimeSplitRunner
from .runner import Runner
from .schedule import schedule_of
from .tensorrt.loaded import loaded
from .tensorrt.runner import TensorRTRunner


def load_split(
    bundle: Bundle,
    engine: str,
    precision: str,
    devices: Sequence[int],
    *,
    threads: int,
    providers: str,
    timeout: float,
    eager_kernels: bool = False,
) -> Runner:
    """A runner for the parts of a bundle, as `load` says."""
    splits = [split for split in bundle.splits if precision in ("auto", split.precision)]
    if not splits:
        has = ", ".join(split.precision for split in bundle.splits) or "none"
        of = "" if precision == "auto" else f" of precision {precision}"
        raise EngineError(f"{bundle.folder} has no split{of} (it has {has}); make one with `exporter split`")
    reasons: dict[str, list[str]] = {}
    sets = [(split, each) for split in splits for each in sets_of_engines(split) if engine in ("auto", each[0].backend)]
    for split, records in sorted(sets, key=lambda pair: speed(pair[1][0])):
        chosen = _enough(devices, split)
        reason = next((r for number in sorted(set(chosen)) for e in records if (r := why_not_run(e, number))), None)
        what = f"the {split.precision} parts on {records[0].backend}"
        if reason is None:
            try:
                runner = run_split(bundle, split, records, chosen, timeout=timeout, eager_kernels=eager_kernels)
                say_why(reasons, what)
                return runner
            except EngineError as error:
                reason = str(error)
        reasons.setdefault(reason, []).append(what)
    if engine in ("auto", "onnxruntime"):
        if providers not in ("auto", "cpu"):
            raise EngineError(f"ONNX Runtime runs parts on the CPU, not by its {providers} provider; leave it out")
        say_why(reasons, "ONNX Runtime")
        split = next((split for split in splits if split.precision == "fp32"), splits[0])
        files = {part.name: bundle.file(part.file) for part in split.parts}
        return OnnxRuntimeSplitRunner(
            split,
            files,
            bundle.inputs,
            bundle.outputs,
            devices=_enough(devices, split),
            threads=threads,
            timeout=timeout,
            read=bundle.graph,
        )
    missing = f"{bundle.folder} holds no {engine} engines of its parts; build them with `exporter build`"
    raise EngineError(next(iter(why_words(reasons)), missing))


def run_split(
    bundle: Bundle | Draft,
    split: SplitRecord,
    records: Sequence[EngineRecord],
    devices: Sequence[int] | None = None,
    *,
    timeout: float = 60.0,
    eager_kernels: bool = True,
) -> Runner:
    """A runner for the engines of all parts, one each in their order, which `why_not_run` must have no objection to.

    `devices` are the GPUs that the split's devices are: by default the first ones, or the first alone where there are
    too few. Raises EngineError where the runtime objects, or the GPUs' memory does not suffice.
    """
    if devices is None:
        devices = range(split.devices) if gpu_count() >= split.devices else [0] * split.devices
    cuda = CudaRuntime()
    return TensorRTRunner(
        schedule_of(split),
        [
            loaded(bundle, record, devices[part.device], cuda, part=part.name, eager=eager_kernels)
            for part, record in zip(split.parts, records, strict=True)
        ],
        cuda,
        devices=devices,
        backend=records[0].backend,
        precision=split.precision,
        inputs=bundle.manifest.inputs,
        outputs=bundle.manifest.outputs,
        profiles=profiles_of(split, records),
        timeout=timeout,
    )


def sets_of_engines(split: SplitRecord) -> list[tuple[EngineRecord, ...]]:
    """The engines of a split that were built alike, one a part in their order; none where a part lacks its own."""
    alike: dict[Any, dict[str, EngineRecord]] = {}
    for record in split.engines:
        built = (record.backend, record.backend_version, record.device, record.targets, record.tf32)
        alike.setdefault((*built, *sorted(record.options.items())), {})[record.onnx_sha256] = record
    return [
        tuple(found[part.sha256] for part in split.parts)
        for found in alike.values()
        if all(part.sha256 in found for part in split.parts)
    ]


def profiles_of(split: SplitRecord, records: Sequence[EngineRecord]) -> tuple[Mapping[str, ShapeRange], ...]:
    """What the engines of all parts cover of the network's own inputs, profile by profile."""
    count = max(len(record.profiles) for record in records)
    profiles: list[dict[str, ShapeRange]] = [{} for _ in range(count)]
    for part, record in zip(split.parts, records, strict=True):
        for profile, covered in zip(profiles, record.profiles, strict=False):
            profile |= {name: r for name, r in covered.items() if part.sources[name] is None}
    return tuple(profiles)


def _enough(devices: Sequence[int], split: SplitRecord) -> Sequence[int]:
    """Those that the split uses. Raises EngineError where they are too few."""
    if len(devices) < split.devices:
        found = f"{len(devices)} devices are given, the {split.precision} split is for {split.devices}"
        raise EngineError(f"{found}; give as many (one may stand for several), or split it for fewer")
    return devices[: split.devices]
