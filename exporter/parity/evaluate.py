"""The reference of a network: the module itself, evaluated in float64 and in its own type."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..onnx_module import OnnxModule
from .batches import Run, in_batches
from .detections import own_of_lists
from .inputs import DATA, EDGES, MAC_BUDGET, NORMAL, Inputs, Scale, batch_of, is_costly, test_inputs
from .measure import MULTIPLE, rms_error, with_own_rms
from .order import matched
from .origin import are_numbers
from .own_scale import own_scales
from .places import places_of
from .reference import Reference
from .rounded import is_whole
from .shake import Choices, shaken, turned_rows
from .ties import FirstOfEquals
from .turns import among_equals, excused
from .uncast import without_autocast
from .wanted import wanted_output
from .widen import float64_outputs

CHUNK = 8
"""Images evaluated at a time, where the network takes them together: each weight is widened once for all of them."""
MANY, REUSED = 1e9, 128
"""Multiply-accumulates of an image, and how often each weight is used for one: where there are as many, float64 is
evaluated an image at a time, as its maps cost more then than its weights."""
ROUNDINGS, FEW_ROUNDINGS = 6, 3
"""How often a network that chooses is evaluated with coarser roundings; less often where that takes long, or memory."""
LARGE = 1 << 27
"""Bytes of all outputs in float64."""
APART, APART_IN_FLOAT32 = 1e-9, 1e-4
"""How far, of the largest output, an image among others may be from the image by itself; further in float32, float64 is
asked."""
Examples = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def reference_from_module(
    module: nn.Module,
    example: Examples,
    *,
    output_names: Sequence[str] = ("logits",),
    seed: int = 0,
    macs: float | None = None,
    longest_sum: int = 1,
    data: np.ndarray | Mapping[str, np.ndarray] | None = None,
    max_data: int | None = None,
    scales: Mapping[str, Scale] | None = None,
    own_runs: Sequence[Run] = (),
) -> Reference:
    """Evaluate the eager `module` (eval mode; left as it is) in float64 on the inputs that `example` calls for.

    An edge on which the module itself gives no finite numbers is left out.

    Args:
        module: the network as it was trained.
        example: its inputs, [N, …] each, by position or by name; N is the batch that steps are run with.
        output_names: one an output; made up where they are too few.
        seed: of the random images.
        macs: of one image; sets how many images are affordable.
        longest_sum: the most terms that one value in the network adds up.
        data: the user's own images, [images, …], for the first input or by name.
        max_data: how many of these to take; by default as many as there are random ones.
        scales: of the random images; by default what the first layers of `module` make normal.
        own_runs: other runtimes of the very network, whose errors count as its own too.

    """
    examples = _named(example)
    batch = batch_of(x.shape for x in examples.values()) or 1
    own = data if isinstance(data, Mapping) or data is None else {next(iter(examples)): data}
    inputs = test_inputs(
        {name: _array(x) for name, x in examples.items()},
        seed=seed,
        macs=macs,
        data=own,
        max_data=max_data,
        scales=own_scales(module, examples) if scales is None else scales,
    )
    types = [x.dtype for x in examples.values()]
    inputs = replace(inputs, arrays=_as_fed(inputs.arrays, types))
    one_by_one = macs is not None and macs > max(MANY, REUSED * sum(p.numel() for p in module.parameters()))
    wide, mixes, together = _in_float64(module, inputs, batch, one_by_one=one_by_one)
    runs = (run_module(module, types), *own_runs)
    narrow = [_evaluate(run, inputs, batch, together=False)[0] for run in runs]
    other = _joined(runs[0], inputs) if together else None
    if one_by_one and other is not None and not all(map(_alike, narrow[0], other)):
        mixes = _mix(module, inputs, wide)
        other = None if mixes else other
    together = other is not None
    narrow += [] if other is None else [other]  # summed in another order: each is a single draw of what rounding may do
    finite = _finite_rows((wide, narrow[0]), len(inputs.kinds))
    gone = [i for i, kind in enumerate(inputs.kinds) if kind in EDGES and not finite[i]]
    left_out = tuple(
        f"the image of {inputs.kinds[i]} is left out: the network itself gives no finite numbers for it" for i in gone
    )
    if macs is not None and is_costly(macs):
        left_out += (f"images of zeros and of twice the contrast are left out: {macs:.1e} multiply-accumulates each",)
    if gone:
        rows = np.setdiff1d(np.arange(len(inputs.kinds)), gone)
        inputs = replace(
            inputs,
            arrays={name: x[rows] for name, x in inputs.arrays.items()},
            kinds=tuple(inputs.kinds[i] for i in rows),
        )
        if mixes and batch > 1:
            wide, *_ = _in_float64(module, inputs, batch, one_by_one=one_by_one)
            narrow = [_evaluate(run, inputs, batch, together=False)[0] for run in runs]
        else:
            wide, narrow = [y[rows] for y in wide], [[y[rows] for y in each] for each in narrow]
    kinds = inputs.kinds
    is_large = 5 * (macs or 0) > MAC_BUDGET or sum(y.nbytes for y in wide) > LARGE
    draws = FEW_ROUNDINGS if is_large else ROUNDINGS
    moved, turns = _shaken(module, inputs, wide, narrow, batch, draws=draws, together=together)
    dtype = _dtype(module)
    of_lists = {} if dtype == "float32" else own_of_lists(wide, narrow)
    narrow, moved = ([_but_for_turns(wide, y) for y in each] for each in (narrow, moved))
    spread_of = np.flatnonzero(np.array(kinds) == (DATA if kinds.count(DATA) > 1 else NORMAL))
    names = (*output_names, *(f"output_{i}" for i in range(len(output_names), len(wide))))[: len(wide)]
    outputs = {}
    places = places_of(wide, [x.shape[1:] for name, x in inputs.arrays.items() if name not in inputs.whole])
    numbers = _numbers(module, types, inputs, wide, batch)
    for i, (name, y) in enumerate(zip(names, wide, strict=True)):
        own_outputs, others = ([each[i] for each in runs if each[i].shape == y.shape] for runs in (narrow, moved))
        found = wanted_output(
            y, own_outputs, kinds, spread_of, moved=others, coarser=MULTIPLE, places=places[i], numbers=numbers[i]
        )
        found = with_own_rms(found, own_outputs)
        if found.step:  # how often it is rounded otherwise
            often = max((rms_error(found, each, math.inf).error for each in others), default=0.0) / MULTIPLE**0.5
            found = replace(found, own_rms=max(found.own_rms, often))
        outputs[name] = replace(found, own_rms=of_lists.get(i, found.own_rms))
    held = Reference(batch, inputs.arrays, kinds, outputs, longest_sum, dtype, inputs.whole, mixes, left_out, turns)
    return held.but_for_amplified() if len(moved) else held


def run_module(module: nn.Module, types: Sequence[torch.dtype] | None = None) -> Run:
    """`module` in its own dtype, whatever autocast it switches on, on arrays; of inputs of other `types`, in these."""

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        return _arrays(_own_outputs(module, _tensors(arrays), types or [torch.float32] * len(arrays)))

    return run


def _named(example: Examples) -> dict[str, Tensor]:
    if isinstance(example, Mapping):
        return dict(example)
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    return {"input" if i == 0 else f"input_{i}": x for i, x in enumerate(tensors)}


def _array(x: Tensor) -> np.ndarray:
    """As NumPy has it; floats in float32."""
    array: np.ndarray = (x.float() if x.is_floating_point() else x).detach().cpu().numpy()
    return array


def _as_fed(arrays: Mapping[str, np.ndarray], types: Sequence[torch.dtype]) -> dict[str, np.ndarray]:
    """Arrays of numbers that inputs of these types hold as they are."""
    narrow = (torch.float16, torch.bfloat16)
    return {
        name: torch.from_numpy(x).to(dtype).float().numpy() if dtype in narrow else x
        for (name, x), dtype in zip(arrays.items(), types, strict=True)
    }


def _tensors(arrays: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.asarray(a, order="C")) for a in arrays)


def _in_float64(
    module: nn.Module, inputs: Inputs, batch: int, *, one_by_one: bool
) -> tuple[list[np.ndarray], bool, bool]:
    """The outputs in float64, whether an image's depend on the others of its batch, and whether batches may be joined.

    Both are open, and said to be no and yes, where images of a batch of one are evaluated `one_by_one`.
    """
    if batch == 1 and one_by_one:
        return _evaluate(_wide_run(module), inputs, batch, together=False)[0], False, not inputs.whole
    found, joined = _evaluate(_wide_run(module), inputs, batch, together=True)
    if batch == 1 and not joined:
        return found, False, False
    last = min(max(batch, CHUNK if joined else 1), len(inputs.kinds)) - 1  # of those that were run together first
    try:
        alone = _wide_run(module)(*_rows(inputs, last, [last] * batch))  # some networks take no image alone
    except Exception:  # a network made for its batch, whatever it raises
        return found, False, joined
    apart = all(len(y) == len(inputs.kinds) for y in found)
    mixes = apart and any(not _close(y[last], y_alone) for y, y_alone in zip(found, alone, strict=True))
    if mixes and batch == 1:
        found, joined = _evaluate(_wide_run(module), inputs, batch, together=False)
    return found, mixes, joined


def _mix(module: nn.Module, inputs: Inputs, wide: list[np.ndarray]) -> bool:
    """Whether the last image gives something else in float64 beside the first than by itself, which is in `wide`."""
    beside = _wide_run(module)(*_rows(inputs, -1, [0, -1]))
    return any(not _close(y[1], y_alone[-1:]) for y, y_alone in zip(beside, wide, strict=True))


def _wide_run(module: nn.Module) -> Run:
    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        return _arrays(float64_outputs(module, _tensors(arrays)))

    return run


def _rows(inputs: Inputs, row: int, among: list[int]) -> list[np.ndarray]:
    """The inputs of a batch of those images; of an input without a batch axis, the one that goes with `row`."""
    return [x[row] if name in inputs.whole else x[among] for name, x in inputs.arrays.items()]


def _alike(y: np.ndarray, other: np.ndarray) -> bool:
    """Whether two outputs of all images in float32 leave no doubt that the images keep apart."""
    if y.shape != other.shape:
        return False
    with np.errstate(all="ignore"):
        return bool(np.max(np.abs(y - other), initial=0.0) <= APART_IN_FLOAT32 * np.max(np.abs(y), initial=0.0))


def _close(y: np.ndarray, alone: np.ndarray) -> bool:
    if alone.shape[1:] != y.shape:
        return True  # it says nothing of the images
    if y.dtype.kind != "f":
        return bool(np.mean(y == alone[0]) > 0.999) if y.size else True
    if not np.isfinite(y).all():
        return True
    off, most = np.abs(y - alone[0]), float(np.max(np.abs(y), initial=0.0))
    return bool(np.isfinite(off).all()) and float(np.max(off, initial=0.0)) <= APART * most


def _shaken(
    module: nn.Module,
    inputs: Inputs,
    wide: list[np.ndarray],
    narrow: list[list[np.ndarray]],
    batch: int,
    *,
    draws: int,
    together: bool,
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """What the roundings of a float32 network may come to where one evaluation does not show it.

    Result: outputs with every value rounded `MULTIPLE` times as coarsely, `draws` of them where the network chooses,
    else one, none where that cannot be told; and which rows of a sorted list it chooses otherwise, or might,
    [images, D]. Of one in half precision neither: its lists are judged by what is detected.
    """
    if _dtype(module) != "float32":
        return [], np.zeros((0, 0), bool)
    turns = turned_rows(wide, narrow) | among_equals(wide)
    if _loops(module):
        return [], turns
    moved: list[list[np.ndarray]] = []
    with contextlib.suppress(Exception):  # whatever a network raises whose values are replaced on their way
        with Choices() as choices:
            moved.append(_evaluate(shaken(module, MULTIPLE, 0), inputs, batch, together=together)[0])
        if choices.seen or (isinstance(module, OnnxModule) and module.by_reference):
            runs = (shaken(module, MULTIPLE, k) for k in range(1, draws))
            moved.extend(_evaluate(run, inputs, batch, together=together)[0] for run in runs)
    return moved, turns | turned_rows(wide, moved)


def _numbers(
    module: nn.Module, types: Sequence[torch.dtype], inputs: Inputs, wide: list[np.ndarray], batch: int
) -> list[bool]:
    """Whether each output is of numbers, not of names; floats are where that cannot be told."""
    found = [y.dtype.kind == "f" for y in wide]
    if all(y.dtype.kind == "b" or (y.dtype.kind == "f" and not is_whole(y)) for y in wide):
        return found
    first = [x[0] if name in inputs.whole else x[np.arange(batch) % len(x)] for name, x in inputs.arrays.items()]
    with contextlib.suppress(Exception):  # whatever a network raises that is watched
        seen = are_numbers(lambda *x: _own_outputs(module, x, types), first)
        found = seen if len(seen) == len(wide) else found
    return found


def _loops(module: nn.Module) -> bool:
    """Whether it is a graph with a loop, which may end by what its values are, and never where they are moved apart."""
    return isinstance(module, OnnxModule) and any(step.op == "Loop" for step in module.steps)


def _but_for_turns(wide: list[np.ndarray], y: list[np.ndarray]) -> list[np.ndarray]:
    """`y` with each row of a sorted list that has no counterpart as in `wide`."""
    found = matched(wide, y)
    return found.outputs if found.astray is None else excused(wide, found, found.astray)[0]


def _finite_rows(each: Sequence[list[np.ndarray]], count: int) -> np.ndarray:
    """The images for which all outputs are finite."""
    finite = np.ones(count, bool)
    for outputs in each:
        for y in outputs:
            if y.dtype.kind == "f" and len(y) == count:
                finite &= np.isfinite(y.reshape(count, -1)).all(axis=1)
    return finite


def _evaluate(run: Run, inputs: Inputs, batch: int, *, together: bool) -> tuple[list[np.ndarray], bool]:
    """Outputs of all images, several batches at once where the network keeps them apart and `together` allows it.

    And whether several were.
    """
    if batch == 1 and together and (found := _joined(run, inputs)) is not None:
        return found, True
    whole = [name in inputs.whole for name in inputs.arrays]
    return in_batches(run, tuple(inputs.arrays.values()), batch, whole=whole), False


def _joined(run: Run, inputs: Inputs) -> list[np.ndarray] | None:
    """Outputs of all images, `CHUNK` at once; None of a network, or a file, made for one image."""

    def run_together(*arrays: np.ndarray) -> Sequence[np.ndarray]:
        outputs = run(*arrays)
        if not all(y.ndim and len(y) == len(arrays[0]) for y in outputs):
            raise RuntimeError("the outputs do not keep the images apart")
        return outputs

    if not inputs.whole:
        with contextlib.suppress(Exception):
            return in_batches(run_together, tuple(inputs.arrays.values()), CHUNK, fill=False)
    return None


def _dtype(module: nn.Module) -> str:
    """The lowest type among the floats of the network, which its rounding errors are of."""
    held = {t.dtype for t in (*module.parameters(), *module.buffers())}
    lower = [name for name in ("bfloat16", "float16") if getattr(torch, name) in held]
    return lower[0] if lower else "float32"


@torch.no_grad()
def _own_outputs(module: nn.Module, inputs: tuple[Tensor, ...], types: Sequence[torch.dtype]) -> Any:
    own = next((p.dtype for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()), torch.float32)
    typed = zip(inputs, types, strict=True)
    with without_autocast(), FirstOfEquals():
        return module(*(x.to(own if t == torch.float32 else t) if x.is_floating_point() else x for x, t in typed))


def _arrays(outputs: Any) -> list[np.ndarray]:
    leaves = [t for t in tree_flatten(outputs)[0] if isinstance(t, Tensor)]
    return [(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).detach().cpu().numpy() for t in leaves]
