"""What an engine is built with, and the optimization profiles of its inputs. Pure: no runtime is imported here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError
from plainconv.exporter.source.shapes import MAX_SIZE, Batches, Sizes

Profile = Mapping[str, ShapeRange]
"""What one optimization profile covers, for each input."""

LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine.

    `targets` are compute capabilities such as "sm86"; none stands for the backend's default. `profiles` say which
    shapes the engine takes, one or several; none where the graph fixes every shape. `tf32` lets fp32 convs round their
    inputs to 10 bits of mantissa, which is faster, and no longer fp32. `workspace` limits, in bytes, the scratch memory
    of any one layer; `optimization_level` is TensorRT's, 0 to 5, and its default where it is None. `timing_cache` is a
    file of TensorRT's measurements, read where it exists and written back; TensorRT-RTX measures nothing, and takes
    none. `max_aux_streams` is how many streams beside its own an engine may use; None leaves it to the runtime.
    `device` is the GPU that TensorRT measures on and builds for; TensorRT-RTX needs none.
    """

    targets: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    tf32: bool = False
    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    max_aux_streams: int | None = None
    device: int = 0


def profile_of(inputs: Sequence[TensorSpec], batch: Batches | None, size: Sizes | None) -> Profile:
    """The optimization profile that covers `batch` where axis 0 is open, and `size` where axes 2 and 3 are.

    Empty where every shape is fixed. Raises EngineError where an axis is open and no sizes are given for it, or sizes
    for none that is; for an open axis that is neither batch, height nor width; and for sizes that do not ascend from 1.
    """
    _refuse_disorder(batch, size)
    open_axes = {axis for spec in inputs for axis, n in enumerate(spec.shape) if isinstance(n, str)}
    other = next(((spec, axis) for spec in inputs for axis, n in _open(spec) if axis not in (0, 2, 3)), None)
    if other is not None:
        raise EngineError(
            f"axis {other[1]} of {other[0]} is open, only batch, height and width (axes 0, 2, 3) may be; "
            "export at a fixed size"
        )
    for given, axes, name, option in (
        (batch, {0}, "batch", "--dynamic-batch MIN:OPT:MAX"),
        (size, {2, 3}, "height or width", "--dynamic-size MIN:OPT:MAX"),
    ):
        if given is None and axes & open_axes:
            raise EngineError(f"{_spelled(inputs)} has an open {name} and no sizes for it; give {option}")
        if given is not None and not axes & open_axes:
            remedy = f"build without {option.split()[0]}, or export it again with it"
            raise EngineError(f"{_spelled(inputs)} has a fixed {name}; {remedy}")
    if not open_axes:
        return {}
    return {spec.name: ShapeRange(*(_shape(spec, k, batch, size) for k in range(3))) for spec in inputs}


def profile_problems(shapes: Mapping[str, tuple[int, ...]], profiles: Sequence[Profile]) -> list[str]:
    """Why these profiles do not suit inputs of these shapes, an open axis -1: each in one line, found, wanted, remedy.

    Every open axis must be covered by every profile, in order, and every other axis be what the shape says.
    """
    is_open = {name: -1 in shape for name, shape in shapes.items()}
    if not any(is_open.values()):
        return [f"it fixes every shape, and {len(profiles)} optimization profiles are given; give none"] * bool(
            profiles
        )
    if not profiles:
        name = next(name for name in shapes if is_open[name])
        return [f"{name} is {list(shapes[name])}, whose open axes (-1) no optimization profile covers; give one"]
    found = []
    for i, profile in enumerate(profiles):
        unknown = [name for name in profile if name not in shapes]
        missing = [name for name in shapes if is_open[name] and name not in profile]
        found += [f"optimization profile {i} covers {name}, which is no input; leave it out" for name in unknown]
        found += [f"optimization profile {i} says nothing of {name}, which has open axes; add it" for name in missing]
        known = [(name, covered) for name, covered in profile.items() if name in shapes]
        for name, covered in known:
            found += [
                f"optimization profile {i}: {problem}" for problem in _range_problems(name, shapes[name], covered)
            ]
    return found


def option_problems(options: BuildOptions) -> list[str]:
    """What no backend takes in these options: each in one line, found, wanted, remedy."""
    found = []
    if options.optimization_level is not None and options.optimization_level not in LEVELS:
        found.append(f"optimization level {options.optimization_level}, wanted 0 to 5; leave it out for the default")
    if options.workspace is not None and options.workspace < 1:
        found.append(f"workspace of {options.workspace} bytes, wanted at least 1; leave it out for no limit")
    if options.max_aux_streams is not None and options.max_aux_streams < 0:
        found.append(f"{options.max_aux_streams} auxiliary streams, wanted 0 or more; leave it out for the default")
    return found


def _refuse_disorder(batch: Batches | None, size: Sizes | None) -> None:
    if batch is not None and not 1 <= batch[0] <= batch[1] <= batch[2] <= MAX_SIZE:
        raise EngineError(f"dynamic batch is {':'.join(map(str, batch))}, wanted 1 <= MIN <= OPT <= MAX, as in 1:8:32")
    if size is not None and not all(1 <= a <= b <= c <= MAX_SIZE for a, b, c in zip(*size, strict=True)):
        found = ":".join(f"{height}x{width}" for height, width in size)
        raise EngineError(
            f"dynamic size is {found}, wanted 1 <= MIN <= OPT <= MAX for height and width, as in 160:224:512"
        )


def _open(spec: TensorSpec) -> list[tuple[int, str]]:
    return [(axis, n) for axis, n in enumerate(spec.shape) if isinstance(n, str)]


def _shape(spec: TensorSpec, k: int, batch: Batches | None, size: Sizes | None) -> tuple[int, ...]:
    """The smallest (k = 0), usual (1) or largest (2) shape of one input."""
    sizes = {0: batch[k] if batch else 0, 2: size[k][0] if size else 0, 3: size[k][1] if size else 0}
    return tuple(n if isinstance(n, int) else sizes[axis] for axis, n in enumerate(spec.shape))


def _range_problems(name: str, shape: tuple[int, ...], covered: ShapeRange) -> list[str]:
    ranks = {len(covered.min), len(covered.opt), len(covered.max)}
    if ranks != {len(shape)}:
        return [f"{name} has shapes of rank {', '.join(map(str, sorted(ranks)))}, wanted {len(shape)}"]
    found = []
    for axis, (n, a, b, c) in enumerate(zip(shape, covered.min, covered.opt, covered.max, strict=True)):
        if n >= 0 and not n == a == b == c:
            found.append(f"axis {axis} of {name} is {a}:{b}:{c}, but the graph fixes it to {n}; give that")
        elif n < 0 and not 1 <= a <= b <= c <= MAX_SIZE:
            found.append(f"axis {axis} of {name} is {a}:{b}:{c}, wanted 1 <= MIN <= OPT <= MAX")
    return found


def _spelled(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, inputs))
