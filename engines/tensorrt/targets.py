"""The GPUs that an engine is built for, as compute capabilities such as "sm86"."""

from collections.abc import Collection
from types import ModuleType

from plainconv.exporter.errors import EngineError

from ..backend import Backend
from ..cuda.gpu import find_gpu

TURING = "sm75"
_FIRST_WITH = {"bf16": "sm80", "fp8": "sm89"}
"""The first GPUs that TensorRT-RTX 1.7 builds convolutions of a type for. fp32, fp16 and int8 it builds for all."""


def known_targets(trt: ModuleType) -> tuple[str, ...]:
    """The compute capabilities that this version of TensorRT-RTX compiles for, in its order."""
    return tuple(name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM"))


def default_targets(trt: ModuleType) -> tuple[str, ...]:
    """Every architecture from Ampere on that this version knows.

    TensorRT-RTX's own default, to name none, makes an engine of the same size that promises less: not the A100 (sm80),
    and a type that a GPU lacks fails where it is run instead of where it is built. Turing (sm75) is left out: it has no
    fp32 GEMM, and slows the engine down on all others.
    """
    return tuple(target for target in known_targets(trt) if target != TURING)


def why_not(target: str, precision: str) -> str | None:
    """Why TensorRT-RTX cannot build a graph with values of this precision for this target, with the remedy.

    None where it may: single operators have limits of their own, which the builder tells (sm75 has no fp32 GEMM).
    """
    first = _FIRST_WITH.get(precision)
    if first is None or _number(target) >= _number(first):
        return None
    return f"{target} has no {precision}, {first} and later have; give other --targets, or another precision"


def targets_for(
    backend: Backend, targets: tuple[str, ...], precisions: Collection[str], *, chosen: bool
) -> tuple[str, ...]:
    """Those of `targets` that take every one of `precisions`; where the user has `chosen` them, all or an error.

    Raises EngineError with the first reason, of `why_not`.
    """
    if not backend.takes_targets:
        return targets
    reasons = {target: next(filter(None, (why_not(target, p) for p in sorted(precisions))), None) for target in targets}
    able = tuple(target for target, reason in reasons.items() if reason is None)
    if (chosen and len(able) < len(targets)) or not able:
        raise EngineError(f"{backend.name} cannot build it: {next(filter(None, reasons.values()))}")
    return able


def _number(target: str) -> int:
    return int(target.removeprefix("sm"))


def checked_targets(trt: ModuleType, backend: Backend, targets: tuple[str, ...], device: int = 0) -> tuple[str, ...]:
    """The targets to build for, each once and in one order, so that the same set gives the same bytes.

    TensorRT builds for GPU `device` alone. Raises EngineError for a target that this backend does not build for.
    """
    wanted = {target.lower() for target in targets}
    valid = known_targets(trt) if backend.takes_targets else (find_gpu(device).target,)
    unknown = sorted(wanted - set(valid))
    if unknown:
        takes = "takes" if backend.takes_targets else "builds for the GPU at hand only, which is"
        raise EngineError(f"unknown target {unknown[0]!r}; {backend.name} {trt.__version__} {takes} {', '.join(valid)}")
    if not wanted:
        return default_targets(trt) if backend.takes_targets else valid
    return tuple(target for target in valid if target in wanted)
