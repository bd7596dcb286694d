"""The whole plain network against the whole module, in float64, at several sizes and at batch 2.

Each region is checked by itself when it is built, at its own borders; what goes wrong between regions (aliasing, a
value read twice, a size that was taken for a constant) only shows here. It shows at any size but the trace's, so the
sizes are the smallest that networks take which halve the map five times, height and width different. A module whose
code reads no size does the same at each: there one will do, odd if it may be, with a batch that no trace has. Elsewhere
one is odd and one even, one with a batch of two, the other with the example's, as something else may be done for one
image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import CheckFailedError, ReparamError, first_line
from ..modes import DispatchMode
from ..parity.ties import FirstOfEquals
from ..parity.widen import float64_outputs
from ..quiet import quiet

_SIZES = (
    (6, "odd"), (7, "even"), (4, "odd"), (4, "square"), (2.5, "square"), (3, "odd"), (2, "odd"), (1, "square"),
    (0, "square"),
)  # fmt: skip
"""By how much, and to what: odd numbers, and another on the next axis; multiples of 32, likewise, or the same."""
BUDGET = 6e9  # multiply-accumulates of one forward; of costlier sizes one counts, the least, where nothing else runs
TIMES_EAGER = 4  # the plain network may be this many times as far from float64 as the module in its own precision
FLOOR = {torch.float64: 1e-10}  # at least this; elsewhere 16 units in the last place
IMAGES = 3  # where no size is read: a trace has one, or two


@dataclass(frozen=True)
class EndToEnd:
    """Input shapes compared and the worst of them: max |plain − module| / max |module|, both computed in float64."""

    shapes: tuple[tuple[int, ...], ...]
    error: float
    tolerance: float

    def __str__(self) -> str:
        shapes = ", ".join("×".join(map(str, shape)) for shape in self.shapes)
        return f"end to end: error {self.error:.1e}, at most {self.tolerance:.1e}, at {shapes}"


class OneImageError(CheckFailedError):
    """The plain network is the module for several images and not for one."""


@torch.no_grad()
def check_end_to_end(
    module: nn.Module,
    plain: nn.Module,
    example: tuple[Tensor, ...],
    open_axes: tuple[tuple[bool, ...], ...],
    *,
    macs: int,
    guarded: bool = False,
    reads_sizes: bool = True,
) -> EndToEnd:
    """Compare at two small sizes, the first odd where it can be, of two images; the second of one where the example is.

    At the example's size where the module takes no other, and at one where its code reads none. `macs` is what one
    forward of the example takes; `guarded` says that the plain network refuses some sizes by itself. Raises
    CheckFailedError where the two differ by more than the module's own rounding explains, OneImageError where they do
    for an example of one image and the batch is open, and ReparamError where the module itself gives two answers for
    one input.
    """
    found: list[EndToEnd] = []
    of_one = [x.dim() > 0 and x.shape[0] == 1 and axes[0] for x, axes in zip(example, open_axes, strict=True)]
    wanted, images = (2, 2) if reads_sizes else (1, IMAGES)
    tried = sorted(_inputs(example, open_axes, images), key=lambda each: max(each[1] * macs, BUDGET))
    for given, work in tried:
        inputs = tuple(x[:1] if found and one else x for x, one in zip(given, of_one, strict=True))
        as_given = all(a.shape == b.shape for a, b in zip(inputs, example, strict=True))
        if len(found) == wanted or (found and work * macs > BUDGET):
            break
        if found and as_given and not any(of_one):
            continue
        try:
            with quiet("torch"), FirstOfEquals(), _Empty() as empty:
                eager = _numbers(module(*inputs))
        except Exception:
            if as_given:
                raise
            continue  # a size that the module does not take
        if empty.seen and not as_given:
            continue  # a map of no pixels lies between: convolutions refuse what ops on single pixels take
        want = _numbers(float64_outputs(module, inputs))
        if not all(bool(t.isfinite().all()) for t in want):
            raise CheckFailedError(f"the network gives NaN or infinity for {_words(inputs)}; look at its weights")
        if not found and _may_change(module):
            _refuse_change(want, _numbers(float64_outputs(module, inputs)))
        try:
            compared = _compare(plain, inputs, eager, want, may_fail=guarded and not as_given)
        except CheckFailedError as error:
            if any(one and len(x) == 1 for x, one in zip(inputs, of_one, strict=True)):
                raise OneImageError(str(error)) from error
            raise
        found += [compared] if compared else []
    worst = max(found, key=lambda one: one.error / one.tolerance)
    return EndToEnd(tuple(shape for one in found for shape in one.shapes), worst.error, worst.tolerance)


class _Empty(DispatchMode):
    """Notes whether an op gave a map without positions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen = self.seen or (isinstance(result, Tensor) and result.dim() > 2 and not result.numel())
        return result


def _compare(
    plain: nn.Module, inputs: tuple[Tensor, ...], eager: list[Tensor], want: list[Tensor], may_fail: bool
) -> EndToEnd | None:
    where = _words(inputs)
    try:
        with quiet("torch"):
            got = _numbers(float64_outputs(plain, inputs, may_copy=False))
    except Exception as raised:
        if may_fail:
            return None
        raise CheckFailedError(
            f"the plain network fails on {where}, which the module takes ({first_line(raised)}); please report this"
        ) from raised
    if [t.shape for t in got] != [t.shape for t in want]:
        raise CheckFailedError(
            f"the plain network gives {[tuple(t.shape) for t in got]} for {where}, the module "
            f"{[tuple(t.shape) for t in want]}; please report this"
        )
    floats = {t.dtype for t in (*plain.parameters(), *inputs) if t.is_floating_point()}
    dtype = max(floats or {torch.float32}, key=lambda dtype: torch.finfo(dtype).eps)  # a cast rounds to the coarsest
    tolerance = FLOOR.get(dtype, 16 * torch.finfo(dtype).eps)
    if dtype != torch.float64:
        tolerance = max(tolerance, TIMES_EAGER * _error(eager, want))
    error = _error(got, want)
    if not error <= tolerance:
        raise CheckFailedError(
            f"the plain network is off by {error:.1e} of the largest output for {where}, at most {tolerance:.1e} is "
            "wanted; please report this"
        )
    return EndToEnd((tuple(inputs[0].shape),), error, tolerance)


def _words(inputs: tuple[Tensor, ...]) -> str:
    return "×".join(map(str, inputs[0].shape))


def _inputs(
    example: tuple[Tensor, ...], open_axes: tuple[tuple[bool, ...], ...], images: int
) -> Iterator[tuple[tuple[Tensor, ...], float]]:
    """Inputs to compare on and how many examples' work each is: small ones, the example's size, the example's shape.

    The open spatial axes shrink together, to odd numbers or to multiples of 32 (networks that halve and join want
    those), a square where the first is refused.
    """
    generator = torch.Generator().manual_seed(0)
    seen: set[tuple[torch.Size, ...]] = set()
    for divisor, step in _SIZES:
        tensors = []
        for x, axes in zip(example, open_axes, strict=True):
            shape = [_shrunk(n, divisor, step, d, images) if axes[d] else n for d, n in enumerate(x.shape)]
            random = x.is_floating_point() and x.dim() >= 2
            given = x if list(x.shape) == shape else _repeated(x, shape)
            tensors.append(torch.randn(shape, generator=generator).to(x.device, x.dtype) if random else given)
        shapes = tuple(t.shape for t in tensors)
        if shapes not in seen:
            seen.add(shapes)
            yield tuple(tensors), max(t.numel() / x.numel() for t, x in zip(tensors, example, strict=True))


def _repeated(x: Tensor, shape: list[int]) -> Tensor:
    """The numbers of x over and over, up to this shape."""
    for axis, n in enumerate(shape):
        x = x.index_select(axis, torch.arange(n, device=x.device) % x.shape[axis])
    return x


def _shrunk(size: int, divisor: float, step: str, axis: int, images: int) -> int:
    """About size / divisor, by one of `_SIZES`; a batch of so many `images`, but for a divisor of 0."""
    if divisor == 0 or (divisor == 1 and axis):
        return size
    if axis == 0:
        return images
    if step == "odd":
        return int(size / divisor) // 2 * 2 + 1 + 2 * (axis % 2)
    other = 32 * (axis % 2) if step == "even" and size >= 64 else 0
    return max(32 * round(size / divisor / 32), min(size, 32)) + other


def _numbers(outputs: object) -> list[Tensor]:
    tensors = [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]
    return [torch.view_as_real(t).double() if t.is_complex() else t.double() for t in tensors]


def _error(got: list[Tensor], want: list[Tensor]) -> float:
    """The worst output's max |difference| over its largest magnitude; NaN where either has one."""
    errors = [
        (a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        for a, b in zip(got, want, strict=True)
        if b.numel()
    ]
    return float(torch.stack(errors).max()) if errors else 0.0


def _may_change(module: nn.Module) -> bool:
    """Whether code that is not in the modules takes part: hooks and parametrizations."""
    return any(m._forward_hooks or m._forward_pre_hooks or hasattr(m, "parametrizations") for m in module.modules())


def _refuse_change(first: list[Tensor], second: list[Tensor]) -> None:
    if _error(second, first) > 1e-12:
        raise ReparamError(
            "the network gives two answers for one input, so a hook or parametrization is not constant; remove it"
        )
