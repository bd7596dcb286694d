"""Every module boundary of a network beside another form of it: what each step is off by itself, and in all.

    error(v)  = rms(v − v64) / spread(v64)           from the input to v: what all the steps before it have left
    local(v)  = rms(f(w64) − v64) / spread(v64)      f from the boundaries w right before v, given as they ought to be

both of the worst channel. Rounding explains a local error of a few times what eager PyTorch's own float32 makes between
the same boundaries; more than that is a fault of what lies between them, whatever came in. A lower precision is held to
what the same layers are off by in the same types, made anew.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .measure import MULTIPLE, UNIT_ROUNDOFF
from .tally import Tally
from .watch import run_watched, tensors, values_of_module

CLOSE = 1e-2
"""Values of two forms that differ by less of their spread are one: others differ by about 1."""
AGAIN = 1.2
"""How many times a step may be as far off as its like, made anew: on other images the scales are others."""
ORDER = 16.0
"""Roundings of a right value that another order of summation is good for: PyTorch adds in pairs, others one by one."""
SAMPLE = 512
"""Numbers of a value that are compared first."""
FAULT, PROPAGATED, ROUNDING = "fault", "propagated", "rounding"
Right = Mapping[str, np.ndarray]
"""Values in float64 by the names of the eager network's modules."""


@dataclass(frozen=True)
class Match:
    """What of the eager network a value of another form is, and the shape that the value has there."""

    key: str
    shape: tuple[int, ...]


Matches = Mapping[str, Match]
"""By the names of the other form's values."""


class Form(Protocol):
    """A form of the network: `names` are its values that are compared, in order, `nodes` what computes each."""

    @property
    def names(self) -> Sequence[str]:
        """Of the values, in order."""

    @property
    def nodes(self) -> Mapping[str, str]:
        """The name of what computes each."""

    def free(self, inputs: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
        """All values, computed from the input."""

    def local(self, inputs: Sequence[np.ndarray], right: Mapping[str, np.ndarray]) -> Iterable[tuple[str, object]]:
        """Each value computed from the right ones before it; or in words why it cannot be."""


@dataclass(frozen=True)
class Boundary:
    """One module boundary in one form: errors in units of its spread, of the worst channel.

    `module` is the eager module's name and `within` those that end between the boundary before and this one, `value`
    the form's own name of it and `node` what computes it there, after which an engine calls its layer. `own` is the
    error of eager float32 there, `tolerance` what rounding explains of `local`, `why` what else speaks against it.
    `caused` is the error at the network's output where this step alone is as it is in this form.
    """

    module: str
    value: str
    node: str
    within: tuple[str, ...]
    error: float
    own: float
    local: float
    tolerance: float
    channel: int | None = None
    why: str = ""
    caused: float | None = None

    @property
    def status(self) -> str:
        """Whether it is at fault, passes on what came in, or rounds."""
        if self.why or not self.local <= self.tolerance:
            return FAULT
        return PROPAGATED if not self.error <= MULTIPLE * max(self.own, self.tolerance) else ROUNDING

    def as_json(self) -> dict[str, Any]:
        """Plain values; a number that JSON lacks as None."""
        found = asdict(self) | {"within": list(self.within), "status": self.status}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


@dataclass(frozen=True)
class StepLayers:
    """One form beside the eager network, boundary by boundary, in order."""

    step: str
    boundaries: tuple[Boundary, ...]

    @property
    def faults(self) -> tuple[Boundary, ...]:
        """Those at fault, the first first."""
        return tuple(each for each in self.boundaries if each.status == FAULT)

    @property
    def ranked(self) -> tuple[Boundary, ...]:
        """Those whose effect on the output was measured, the largest first."""
        known = [each for each in self.boundaries if each.caused is not None]
        return tuple(sorted(known, key=lambda each: -(each.caused or 0.0)))


class Eager:
    """The network as it was trained, in float64, on a few batches of inputs; `labels` name its values for people.

    `inside` says of values which modules are computed on the way to them and to no other, where that is known.
    """

    def __init__(
        self, module: nn.Module, batches: Sequence[Sequence[np.ndarray]], labels: Mapping[str, str] | None = None
    ) -> None:
        self.module, self.batches = module, batches
        self._labels = labels or {}
        self.inside: Mapping[str, Sequence[str]] = {}
        first = values_of_module(module, tensors(batches[0]), float64=True)
        self.order = list(first)
        self._right: list[dict[str, np.ndarray]] = [first]

    def label(self, key: str) -> str:
        """What a person calls it."""
        return self._labels.get(key, key) or "the network's output"

    @property
    def right(self) -> Sequence[Right]:
        """What each batch's values ought to be; of the first all of them, unless `keep` has dropped some."""
        return self._right

    def keep(self, keys: Iterable[str]) -> None:
        """Evaluate the other batches, and keep only these values of all."""
        wanted = set(keys)
        rest = [values_of_module(self.module, tensors(x), float64=True) for x in self.batches[1:]]
        self._right = [{k: y for k, y in each.items() if k in wanted} for each in (self._right[0], *rest)]

    def within(self, keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """For each of `keys` the labels of what is `inside` it, and of what is computed behind the one before it."""
        ends, found, waiting = set(keys), {}, list[str]()
        owner = {label: key for key in self.inside.keys() & ends for label in self.inside[key]}
        for key in self.order:
            waiting.append(self.label(key))
            if key in ends:
                mine = [label for label in waiting if owner.get(label, key) == key]
                found[key], waiting = tuple(dict.fromkeys((*self.inside.get(key, ()), *mine))), []
        return found

    def own(self, x: Sequence[np.ndarray], right: Right, *, forced: bool) -> Iterator[tuple[str, np.ndarray]]:
        """The values of `right` as eager float32 computes them: from the input, or `forced` from the right ones."""
        found: dict[str, np.ndarray] = {}

        def watch(name: str, y: Tensor) -> Tensor:
            if name not in right or name in found:
                return y
            found[name] = y.detach().float().numpy().copy()
            return torch.from_numpy(right[name]).reshape(y.shape).to(y.dtype) if forced else y

        run_watched(self.module, tensors(x), watch)
        yield from found.items()

    def output_without(self, x: Sequence[np.ndarray], key: str, value: np.ndarray | None) -> list[np.ndarray]:
        """The outputs in float32 where the value `key` is another."""

        def watch(name: str, y: Tensor) -> Tensor:
            return y if name != key or value is None else torch.from_numpy(value).reshape(y.shape).to(y.dtype)

        returned = run_watched(self.module, tensors(x), watch)
        leaves = returned if isinstance(returned, tuple) else (returned,)
        return [y.float().numpy() for y in leaves if y.is_floating_point()]


def aligned(values: Mapping[str, np.ndarray], right: Right, close: float = CLOSE) -> dict[str, Match]:
    """For each of `values` that is `close` to one of `right` which of them: the nearest, the first of several."""
    by_size: dict[int, list[tuple[str, np.ndarray, float]]] = {}
    for key, w in right.items():
        spread = float(np.std(w))
        if spread > 0 and np.isfinite(spread):
            by_size.setdefault(w.size, []).append((key, w.ravel(), spread))
    found = {}
    for name, value in values.items():
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            continue
        y, best = value.ravel(), (2 * close, "")
        some = slice(None, None, max(1, y.size // SAMPLE))
        for key, w, spread in by_size.get(y.size, []):
            if _rms(y[some] - w[some]) < 3 * close * spread and (off := _rms(y - w) / spread) < 0.5 * best[0]:
                best = (off, key)
        if best[1]:
            found[name] = Match(best[1], value.shape)
    return found


def compare_layers(
    step: str,
    form: Form,
    eager: Eager,
    matches: Matches,
    *,
    dtype: str = "float32",
    bounded: Collection[str] = (),
) -> StepLayers:
    """`form` at each of its values in `matches`.

    `dtype` is the type that it rounds to. Values that are `bounded` come of functions between −1 and 1, which runtimes
    approximate to an absolute error: where all of them are near an end, that is much of their spread.
    """
    names = [name for name in form.names if name in matches]
    keys = {name: matches[name].key for name in names}
    tallies = {kind: {name: Tally() for name in names} for kind in ("free", "local", "own", "own local")}
    why: dict[str, str] = {}
    for x, held in zip(eager.batches, eager.right, strict=True):
        right = {keys[name]: held[keys[name]] for name in names}
        narrow = {name: _as(matches[name], held) for name in names}
        found: dict[str, Iterable[tuple[str, object]]] = {
            "free": form.free(x).items(),
            "local": form.local(x, narrow),
            "own": eager.own(x, right, forced=False),
            "own local": eager.own(x, right, forced=True),
        }
        for kind, values in found.items():
            of_key: dict[str, list[str]] = {}
            for name in names:
                of_key.setdefault(keys[name] if kind.startswith("own") else name, []).append(name)
            for at, value in values:
                for name in of_key.get(at, ()):
                    if isinstance(value, np.ndarray) and value.size == right[keys[name]].size:
                        tallies[kind][name].add(value, right[keys[name]])
                    elif kind == "local":
                        why.setdefault(name, _not_alike(value, right[keys[name]]))
    within = eager.within(keys.values())
    own_locals = [tally.error()[0] for tally in tallies["own local"].values()]
    usual = float(np.median([e for e in own_locals if math.isfinite(e)] or [0.0]))
    boundaries = []
    for name in names:
        local, channel = tallies["local"][name].error()
        rounding = ORDER * tallies["local"][name].rounding()
        explained = max(usual, tallies["own local"][name].error()[0], rounding)
        tolerance = MULTIPLE * explained * UNIT_ROUNDOFF[dtype] / UNIT_ROUNDOFF["float32"]
        absolute = MULTIPLE * tallies["local"][name].unit() if name in bounded else 0.0
        boundaries.append(
            Boundary(
                eager.label(keys[name]),
                name,
                form.nodes[name],
                within[keys[name]],
                tallies["free"][name].error()[0],
                tallies["own"][name].error()[0],
                local,
                max(tolerance, absolute),
                channel,
                why.get(name, ""),
            )
        )
    return StepLayers(step, tuple(boundaries))


def explained_by(step: StepLayers, again: StepLayers) -> StepLayers:
    """`step` with what its like, made anew, is off by in each place as what is explained there."""
    local = {b.value: AGAIN * b.local for b in again.boundaries if math.isfinite(b.local)}
    found = (replace(b, tolerance=max(b.tolerance, local.get(b.value, 0.0))) for b in step.boundaries)
    return StepLayers(step.step, tuple(found))


def with_causes(step: StepLayers, form: Form, eager: Eager, matches: Matches, *, most: int) -> StepLayers:
    """`step` with what its `most` largest local errors cause at the output, each alone, on the first batch."""
    x, held = eager.batches[0], eager.right[0]
    right = {name: _as(matches[name], held) for name in form.names if name in matches}
    chosen = {b.value for b in sorted(step.boundaries, key=lambda b: -np.nan_to_num(b.local, nan=np.inf))[:most]}
    base = eager.output_without(x, "", None)
    caused = {}
    for name, value in form.local(x, right):
        if name in chosen and isinstance(value, np.ndarray) and value.size == right[name].size:
            outputs = eager.output_without(x, matches[name].key, value)
            caused[name] = max((_off(y, y0) for y, y0 in zip(outputs, base, strict=True)), default=0.0)
    return replace(step, boundaries=tuple(replace(b, caused=caused.get(b.value)) for b in step.boundaries))


class TorchForm:
    """A torch network as a form, such as the plain one."""

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self.module, self.names = module, list(names)
        self.nodes = {name: name for name in self.names}

    def free(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """See `Form`."""
        wanted = set(self.names)
        return {k: y for k, y in values_of_module(self.module, tensors(inputs)).items() if k in wanted}

    def local(self, inputs: Sequence[np.ndarray], right: Mapping[str, np.ndarray]) -> list[tuple[str, object]]:
        """See `Form`."""
        found: list[tuple[str, object]] = []

        def watch(name: str, y: Tensor) -> Tensor:
            if name not in right:
                return y
            found.append((name, y.detach().numpy().copy()))
            return torch.from_numpy(right[name]).reshape(y.shape)

        run_watched(self.module, tensors(inputs), watch)
        return found


def _as(match: Match, right: Right) -> np.ndarray:
    return right[match.key].astype(np.float32).reshape(match.shape)


def _not_alike(value: object, right: np.ndarray) -> str:
    if isinstance(value, np.ndarray):
        return f"shape {list(value.shape)}, want {list(right.shape)}"
    return f"it does not run: {value}"


def _off(y: np.ndarray, y0: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        off = _rms(y.astype(np.float64) - y0) / max(float(np.std(y0)), float(np.finfo(np.float32).tiny))
    return off if math.isfinite(off) else math.inf


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
