"""The eager training-time network in float64, evaluated once, and what each step is held to.

A step's error on image i is max |y − y64| / scaleᵢ. The scale is the spread, the RMS over elements of the standard
deviation of y64 over the random images (the user's own, if there are at least two): an output that hardly depends on
its input has a small one, and no tolerance in absolute terms would notice that it is wrong. An edge may move the
output further than that (twice the contrast moves a ReLU network's output by twice as much), and its rounding errors
grow alike: scaleᵢ is the RMS of y64ᵢ − mean(y64) where that is larger.

The tolerance follows from the network: at most MULTIPLE times what eager PyTorch in float32 is from float64 on the same
images, and no less than MULTIPLE times the rounding of a perfect result, u·|y64|, u = 2⁻²⁴: where eager happens to be
exact, a step need not be.

The images of zeros and of hot pixels have feature maps of equal values, and in a sum of n equal terms all roundings go
the same way: added one after another they are off by up to n·u of the sum, where eager PyTorch, which adds in pairs,
shows nothing of it. On these images n·u·|y64| is allowed, n being the longest sum in the network.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .inputs import DATA, HOT, NORMAL, ZEROS, test_inputs
from .record import FAILED, HELD, Parity
from .widen import float64_outputs

MULTIPLE = 4.0
"""How many times as far from float64 as eager PyTorch a step may be."""
UNIT_ROUNDOFF = 2.0**-24
"""The relative error of a number rounded to float32."""
MAX_TOLERANCE = 0.01
"""A tolerance beyond it certifies nothing: known wrong fusions are off by as little as 6 % of the spread."""
AGREEMENT, ENOUGH = 0.95, 20
"""Of that many of the user's images, this share must have the same largest score in a lower precision."""
CHUNK = 8
"""Images evaluated at a time, where the network takes them together: each weight is widened once for all of them."""

Run = Callable[..., Sequence[np.ndarray]]
"""Arrays in, one batch of each input; arrays out."""


@dataclass(frozen=True)
class Reference:
    """Inputs, the outputs wanted for them in float64, and what a step may differ by. Every array is [images, …]."""

    batch: int
    inputs: tuple[np.ndarray, ...]
    kinds: tuple[str, ...]
    names: tuple[str, ...]
    outputs: tuple[np.ndarray, ...]
    scales: tuple[np.ndarray, ...]
    spreads: tuple[float, ...]
    own_errors: tuple[float, ...]
    longest_sum: int = 1

    def tolerance(self, output: int) -> float:
        """What a float32 step may differ by on this output, in units of its spread."""
        y, scale = self.outputs[output], self.scales[output]
        with np.errstate(all="ignore"):
            floor = float(np.max(UNIT_ROUNDOFF * _peaks(y) / scale, initial=0.0))
        return MULTIPLE * max(self.own_errors[output], floor)

    def _allowances(self, output: int, tolerance: float) -> np.ndarray:
        """The tolerance on each image: wider where equal terms are added up."""
        y = self.outputs[output]
        allowed = np.full(len(y), tolerance)
        if len(self.kinds) == len(y):
            with np.errstate(all="ignore"):
                bound = self.longest_sum * UNIT_ROUNDOFF * _peaks(y) / self.scales[output]
            flat = np.isin(self.kinds, (ZEROS, HOT))
            allowed[flat] = np.fmax(allowed, bound)[flat]
        return allowed

    def of_kinds(self, kinds: Sequence[str]) -> "Reference":
        """The same on the images of these kinds alone, with the same spreads and tolerances.

        Whole where the outputs do not keep the images apart, or none is of these kinds.
        """
        return self._rows(np.flatnonzero(np.isin(self.kinds, tuple(kinds))))

    def first(self, count: int) -> "Reference":
        """The same on the first `count` images alone; whole where the outputs do not keep the images apart."""
        return self._rows(np.arange(min(count, len(self.kinds))))

    def _rows(self, rows: np.ndarray) -> "Reference":
        if not len(rows) or any(len(y) != len(self.kinds) for y in self.outputs):
            return self
        return dataclasses.replace(
            self,
            inputs=tuple(x[rows] for x in self.inputs),
            kinds=tuple(self.kinds[row] for row in rows),
            outputs=tuple(y[rows] for y in self.outputs),
            scales=tuple(s[rows] for s in self.scales),
        )

    def judge(self, step: str, run: Run, tolerance: float | None = None) -> tuple[Parity, ...]:
        """Compare what `run` returns, called with a batch at a time, with the reference: one record an output.

        `tolerance`, in units of an output's spread, takes the place of float32's for a lower precision. On the user's
        own images, where they are `ENOUGH`, such a step must also agree on the largest element of `AGREEMENT` of them.
        """
        return self.compare(step, in_batches(run, self.inputs, self.batch), tolerance)

    def compare(self, step: str, outputs: Sequence[np.ndarray], tolerance: float | None = None) -> tuple[Parity, ...]:
        """As `judge`, for outputs at hand."""
        if len(outputs) != len(self.outputs):
            found = f"failed: {len(outputs)} outputs, want {len(self.outputs)}"
            return tuple(self._record(step, i, math.nan, (), None, found, math.nan) for i in range(len(self.outputs)))
        agreement = 0.0 if tolerance is None or len(self.kinds) < ENOUGH or set(self.kinds) != {DATA} else AGREEMENT
        return tuple(
            self._compare(step, i, y, self.tolerance(i) if tolerance is None else tolerance, agreement)
            for i, y in enumerate(outputs)
        )

    def save(self, path: Path) -> None:
        """Keep it in an .npz file, for a later comparison without the network."""
        arrays: dict[str, Any] = {f"input_{i}": x for i, x in enumerate(self.inputs)}
        arrays |= {f"output_{i}": y for i, y in enumerate(self.outputs)}
        arrays |= {f"scale_{i}": s for i, s in enumerate(self.scales)}
        np.savez(
            path,
            batch=self.batch,
            kinds=np.array(self.kinds),
            names=np.array(self.names),
            spreads=np.array(self.spreads),
            own_errors=np.array(self.own_errors),
            longest_sum=self.longest_sum,
            **arrays,
        )

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """What `save` kept."""
        with np.load(path, allow_pickle=False) as held:
            count = {kind: sum(key.startswith(kind) for key in held) for kind in ("input_", "output_", "scale_")}
            members = {kind: tuple(held[f"{kind}{i}"] for i in range(n)) for kind, n in count.items()}
            return cls(
                int(held["batch"]),
                members["input_"],
                tuple(str(k) for k in held["kinds"]),
                tuple(str(n) for n in held["names"]),
                members["output_"],
                members["scale_"],
                tuple(float(s) for s in held["spreads"]),
                tuple(float(e) for e in held["own_errors"]),
                int(held["longest_sum"]),
            )

    def _compare(self, step: str, i: int, y: np.ndarray, tolerance: float, agreement: float) -> Parity:
        wanted = self.outputs[i]
        if y.shape != wanted.shape:
            found = f"failed: shape {list(y.shape[1:])}, want {list(wanted.shape[1:])}"
            return self._record(step, i, math.nan, (), None, found, tolerance)
        with np.errstate(all="ignore"):
            scale = self.scales[i].reshape(-1, *[1] * (wanted.ndim - 1))
            errors = np.abs(y.astype(np.float64) - wanted) / scale
            shares = errors / self._allowances(i, tolerance).reshape(scale.shape)
        bad = np.isnan(errors)
        worst = np.unravel_index(int(np.argmax(np.where(bad, np.inf, shares))), errors.shape)
        tolerance = float(self._allowances(i, tolerance)[worst[0]])
        error = math.nan if bad.any() else float(errors[worst])
        top1 = _top1(y, wanted)
        if not np.isfinite(wanted).all() or not self.spreads[i] > 0:
            why = "the reference is not finite" if self.spreads[i] > 0 else "the output does not depend on the input"
            status = f"not certified: {why}"
        elif not error <= tolerance:
            status = FAILED
        elif top1 is not None and top1 < agreement:
            status = f"{FAILED}: the largest score agrees on {top1:.1%} of the images, wanted {agreement:.0%}"
        elif self.tolerance(i) > MAX_TOLERANCE:
            own = f"{self.own_errors[i]:.1e} of the output's spread"
            status = f"not certified: eager float32 itself is {own} from float64, too far to tell right from wrong"
        else:
            status = HELD
        return self._record(step, i, error, tuple(int(k) for k in worst), top1, status, tolerance)

    def _record(
        self, step: str, i: int, error: float, worst: tuple[int, ...], top1: float | None, status: str, tolerance: float
    ) -> Parity:
        kind = self.kinds[worst[0]] if worst and len(self.kinds) == len(self.outputs[i]) else ""
        return Parity(
            step, self.names[i], error, tolerance, self.spreads[i], self.own_errors[i], worst, kind, top1, status
        )


def reference_from_module(
    module: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    output_names: Sequence[str] = ("logits",),
    seed: int = 0,
    macs: float | None = None,
    longest_sum: int = 1,
    data: np.ndarray | None = None,
    max_data: int | None = None,
) -> Reference:
    """Evaluate the eager `module` (eval mode; left as it is) in float64 on the inputs that `example`'s shapes call for.

    Args:
        module: the network as it was trained.
        example: its inputs, [N, …] each; N is the batch that steps are run with.
        output_names: one an output; made up where they are too few.
        seed: of the random images.
        macs: of one image; sets how many images are affordable.
        longest_sum: the most terms that one value in the network adds up.
        data: the user's own images for the first input, [images, …].
        max_data: how many of these to take; by default as many as there are random ones.

    """
    examples = example if isinstance(example, tuple) else (example,)
    batch = int(examples[0].shape[0])
    dtypes = [np.dtype(np.float32) if t.is_floating_point() else np.dtype(t.cpu().numpy().dtype) for t in examples]
    inputs, kinds = test_inputs(
        [tuple(t.shape) for t in examples], dtypes, seed=seed, macs=macs, data=data, max_data=max_data
    )
    outputs = tuple(_evaluate(lambda *x: float64_outputs(module, x), inputs, batch))
    own = _evaluate(lambda *x: _own_outputs(module, x), inputs, batch)
    spread_of = [i for i, kind in enumerate(kinds) if kind == (DATA if kinds.count(DATA) > 1 else NORMAL)]
    spreads, scales, own_errors = [], [], []
    for y, y_own in zip(outputs, own, strict=True):
        rows = spread_of if len(y) == len(kinds) else list(range(len(y)))
        spread = float(np.sqrt(np.mean(np.var(y[rows], axis=0, ddof=1)))) if len(rows) > 1 else 0.0
        away = (y - y[rows].mean(axis=0)).reshape(len(y), -1)
        scales.append(np.maximum(spread, np.sqrt(np.mean(away**2, axis=1))))
        spreads.append(spread)
        with np.errstate(all="ignore"):
            own_errors.append(float(np.max(_peaks(y_own.astype(np.float64) - y) / scales[-1])))
    names = (*output_names, *(f"output_{i}" for i in range(len(output_names), len(outputs))))[: len(outputs)]
    return Reference(
        batch, inputs, kinds, names, outputs, tuple(scales), tuple(spreads), tuple(own_errors), longest_sum
    )


def run_module(module: nn.Module) -> Run:
    """`module` in its own dtype, on arrays."""

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        return _arrays(_own_outputs(module, tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)))

    return run


def in_batches(run: Run, inputs: Sequence[np.ndarray], batch: int, *, fill: bool = True) -> list[np.ndarray]:
    """`run` on all images, `batch` at a time, the last one filled up unless it may be smaller; outputs [images, …]."""
    count = len(inputs[0])
    parts = []
    for start in range(0, count, batch):
        index = np.arange(start, start + batch if fill else min(start + batch, count))
        parts.append(list(run(*(x[np.minimum(index, count - 1)] for x in inputs))))
    joined = []
    for outputs in zip(*parts, strict=True):
        if outputs[0].ndim and outputs[0].shape[0] == min(batch, count if not fill else batch):
            joined.append(np.concatenate(outputs)[:count])
        else:
            joined.append(np.stack(outputs))  # no batch axis: one output a batch
    return joined


def _evaluate(call: Callable[..., Any], inputs: tuple[np.ndarray, ...], batch: int) -> list[np.ndarray]:
    """Outputs of a torch callable on all images, several batches at once where it keeps them apart."""

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        return _arrays(call(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)))

    def run_together(*arrays: np.ndarray) -> list[np.ndarray]:
        outputs = run(*arrays)
        if not all(y.ndim and len(y) == len(arrays[0]) for y in outputs):
            raise RuntimeError("the outputs do not keep the images apart")
        return outputs

    if batch == 1:
        with contextlib.suppress(RuntimeError):  # a network made for one image
            return in_batches(run_together, inputs, CHUNK, fill=False)
    return in_batches(run, inputs, batch)


@torch.no_grad()
def _own_outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return module(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))


def _arrays(outputs: Any) -> list[np.ndarray]:
    leaves = [t for t in tree_flatten(outputs)[0] if isinstance(t, Tensor)]
    return [(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).detach().cpu().numpy() for t in leaves]


def _peaks(y: np.ndarray) -> np.ndarray:
    """max |y| of each image."""
    peaks: np.ndarray = np.abs(y).reshape(len(y), -1).max(axis=1)
    return peaks


def _top1(y: np.ndarray, wanted: np.ndarray) -> float | None:
    if wanted.ndim != 2 or wanted.shape[1] < 2:
        return None
    return float(np.mean(y.argmax(axis=1) == wanted.argmax(axis=1)))
