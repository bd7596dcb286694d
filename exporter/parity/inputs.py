"""What a network is compared on: seeded random images at its own scale, the user's own, and edges."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NORMAL, DATA, ZEROS, LARGE, HOT = "normal", "data", "zeros", "large", "hot"
EDGES = (ZEROS, LARGE, HOT)
LARGE_FACTOR = 2.0
"""Random images of twice the contrast; a power of two, so that scaling rounds nothing.

Much larger ones say nothing of a gated network: the argument of a gate grows with each layer, its rounding error in
absolute terms too, and where such an argument crosses zero the output moves with it. At 4, one correct float32
evaluation of ParNet-S in several is a hundred times as far from float64 as the others; at 256, most are.
"""
MAC_BUDGET = 40e9
"""Multiply-accumulates that one pass over all the images may take: seconds on a small CPU, in float64.

A network that needs more for five images is spared the large one, which tells the least; one of which a single image
takes `COSTLY` times as much that of zeros too: most of the one of hot pixels is zeros.
"""
COSTLY = 4
MIN_NORMAL, MAX_NORMAL = 2, 13
"""Random images: two give a spread; more than a dozen show nothing new."""
_COARSE = 4
"""Patches along an axis of an image: pixels of one patch go together, as in a photo."""


@dataclass(frozen=True)
class Scale:
    """What a network's first layers make 0 and ±1 of: the mean and standard deviation of the numbers that it takes."""

    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Inputs:
    """Arrays by the names of the inputs, a row an image, and the kind of each image.

    Of an input in `whole`, which has no batch axis, a row is the array that goes with the batch of that image.
    """

    arrays: Mapping[str, np.ndarray]
    kinds: tuple[str, ...]
    whole: frozenset[str] = frozenset()


def batch_of(shapes: Iterable[Sequence[int]]) -> int | None:
    """The batch of a call with inputs of these shapes: the first axis of the first of two axes or more, else of one.

    None where none has an axis.
    """
    found = list(shapes)
    first = next((s for s in found if len(s) > 1), next((s for s in found if s), None))
    return None if first is None else int(first[0])


def has_batch(shape: Sequence[int], batch: int | None) -> bool:
    """Whether the first axis is the batch."""
    return len(shape) > 0 and shape[0] == batch


def is_costly(macs: float | None) -> bool:
    """Whether a network of so many multiply-accumulates an image is judged on the fewest images."""
    return macs is not None and macs > COSTLY * MAC_BUDGET


def test_inputs(
    examples: Mapping[str, np.ndarray],
    *,
    seed: int,
    macs: float | None = None,
    data: Mapping[str, np.ndarray] | None = None,
    max_data: int | None = None,
    scales: Mapping[str, Scale] | None = None,
) -> Inputs:
    """The images that a network is compared on; the same for the same arguments.

    Args:
        examples: one batch of each input, [N, …], N as `batch_of` says. One whose first axis is another has no batch
            axis: it keeps its value. Wider integers are drawn from the range of the example's own.
        seed: of the random images.
        macs: of one image, which sets how many there are; as many as is useful where it is not known.
        data: images of the user's own, [images, …], for some of the inputs; the others get random ones.
        max_data: how many of these to take; by default as many as there are random ones.
        scales: of inputs that the network normalizes by itself.

    """
    edges = EDGES if not macs or 5 * macs <= MAC_BUDGET else (HOT,) if is_costly(macs) else (ZEROS, HOT)
    affordable = MAX_NORMAL if not macs else int(MAC_BUDGET / macs) - len(edges)
    normals = min(max(affordable, MIN_NORMAL), MAX_NORMAL)
    data = data or {}
    own = min((len(x) for x in data.values()), default=0)
    own = min(own, normals if max_data is None else max_data)
    kinds = [NORMAL] * normals + [DATA] * own + list(edges)
    rng = np.random.default_rng(seed)
    batch = batch_of(x.shape for x in examples.values())
    arrays, whole = {}, set()
    for name, example in examples.items():
        if not has_batch(example.shape, batch):
            arrays[name] = np.stack([example] * len(kinds))
            whole.add(name)
            continue
        shown = data[name][:own] if name in data else None
        scale = (scales or {}).get(name, Scale())
        arrays[name] = _images(example, kinds, rng, shown, scale)
    return Inputs(arrays, tuple(kinds), frozenset(whole))


test_inputs.__test__ = False  # type: ignore[attr-defined]


def _images(
    example: np.ndarray, kinds: list[str], rng: np.random.Generator, shown: np.ndarray | None, scale: Scale
) -> np.ndarray:
    image, dtype = example.shape[1:], example.dtype
    random = [i for i, kind in enumerate(kinds) if kind == NORMAL or (kind == DATA and shown is None)]
    found = np.zeros((len(kinds), *image), np.float32 if dtype.kind == "f" else np.int64)
    if dtype.kind != "f":
        found[:] = _integers(example, len(kinds), rng)
        if dtype == np.uint8:
            found[np.isin(kinds, ZEROS)] = 0
    else:
        found[random] = patchy(rng, (len(random), *image))
        for i, kind in enumerate(kinds):
            if kind in EDGES:
                found[i] = {ZEROS: 0.0, LARGE: found[0] * np.float32(LARGE_FACTOR), HOT: hot_borders(image)}[kind]
        if scale != Scale():
            away = ~np.isin(kinds, ZEROS)
            found[away] = np.float32(scale.mean) + found[away] * np.float32(scale.std)
    if shown is not None:
        found[np.isin(kinds, DATA)] = shown
    return found.astype(dtype)


def _integers(example: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels for bytes: patches and noise over the whole range; for others numbers as the example has."""
    shape = (count, *example.shape[1:])
    if example.dtype.kind in "iu" and example.dtype.itemsize == 1:
        info = np.iinfo(example.dtype)
        middle, half = (info.max + info.min) / 2, (info.max - info.min) / 2
        return np.clip(np.rint(middle + half * 0.6 * patchy(rng, shape)), info.min, info.max)
    low, high = (int(example.min()), int(example.max())) if example.size else (0, 1)
    return rng.integers(min(low, 0), max(high, 1) + 1, shape)


def patchy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers [images, …], half of whose variance is that of patches, `_COARSE` along each axis.

    Where all pixels are independent, their means are alike from image to image, and what a network makes of means, as
    behind a global pool, hardly depends on the image. Without any such axis all numbers are independent.
    """
    fine = rng.standard_normal(shape, np.float32)
    if max(shape[1:], default=0) <= _COARSE or len(shape) < 3:
        return fine
    coarse = rng.standard_normal([shape[0], *(min(n, _COARSE) for n in shape[1:])], np.float32)
    for axis, n in enumerate(shape[1:], start=1):
        coarse = np.take(coarse, np.arange(n) * coarse.shape[axis] // n, axis=axis)
    mixed: np.ndarray = (fine + coarse) * np.float32(math.sqrt(0.5))
    return mixed


def hot_borders(image: tuple[int, ...]) -> np.ndarray:
    """Zeros but for one pixel at each corner and in the middle of each border, of the energy of a normal image."""
    x = np.zeros(image, np.float32)
    sizes = image[1:]
    places = [sorted({0, size // 2, size - 1}) for size in sizes]
    spots = [
        spot
        for spot in np.ndindex(*(len(p) for p in places))
        if any(places[axis][i] in (0, sizes[axis] - 1) for axis, i in enumerate(spot))
    ]
    value = math.sqrt(math.prod(sizes) / max(len(spots), 1))
    for spot in spots:
        x[(slice(None), *(places[axis][i] for axis, i in enumerate(spot)))] = value
    return x
