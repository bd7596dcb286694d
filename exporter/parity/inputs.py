"""What a network is compared on: seeded normal images, the user's own, and edges."""

import math

import numpy as np

NORMAL, DATA, ZEROS, LARGE, HOT = "normal", "data", "zeros", "large", "hot"
LARGE_FACTOR = 2.0
"""Normal images of twice the contrast; a power of two, so that scaling rounds nothing.

Much larger ones say nothing of a gated network: the argument of a gate grows with each layer, its rounding error in
absolute terms too, and where such an argument crosses zero the output moves with it. At 4, one correct float32
evaluation of ParNet-S in several is a hundred times as far from float64 as the others; at 256, most are.
"""
MAC_BUDGET = 40e9
"""Multiply-accumulates that one pass over all the images may take: seconds on a small CPU, in float64.

A network that needs twice as much for five images is spared the large one, which tells the least.
"""
MIN_NORMAL, MAX_NORMAL = 2, 13
"""Random images: two give a spread; more than a dozen show nothing new."""


def test_inputs(
    shapes: list[tuple[int, ...]],
    dtypes: list[np.dtype],
    *,
    seed: int,
    macs: float | None = None,
    data: np.ndarray | None = None,
    max_data: int | None = None,
) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
    """One array an input, [images, …], and the kind of each image; the same for the same arguments.

    Args:
        shapes: of one batch of each input, [N, …].
        dtypes: of the inputs; one that is not a float gets zeros and ones.
        seed: of the random images.
        macs: of one image, which sets how many there are; as many as is useful where it is not known.
        data: images of the user's own for the first input, [images, …].
        max_data: how many of these to take; by default as many as there are random ones.

    """
    edges = (ZEROS, LARGE, HOT) if not macs or 5 * macs <= 2 * MAC_BUDGET else (ZEROS, HOT)
    affordable = MAX_NORMAL if not macs else int(MAC_BUDGET / macs) - len(edges)
    normals = min(max(affordable, MIN_NORMAL), MAX_NORMAL)
    own = 0 if data is None else min(len(data), normals if max_data is None else max_data)
    kinds = [NORMAL] * normals + [DATA] * own + list(edges)
    rng = np.random.default_rng(seed)
    inputs = []
    for position, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
        image = shape[1:]
        if dtype.kind != "f":
            inputs.append(rng.integers(0, 2, (len(kinds), *image)).astype(dtype))
            continue
        random = rng.standard_normal((normals, *image), np.float32)
        if position == 0 and data is not None:
            shown = np.asarray(data[:own], np.float32)
        else:
            shown = rng.standard_normal((own, *image), np.float32)
        made = {
            ZEROS: np.zeros(image, np.float32),
            LARGE: random[0] * np.float32(LARGE_FACTOR),
            HOT: hot_borders(image),
        }
        inputs.append(np.concatenate([random, shown, np.stack([made[kind] for kind in edges])]).astype(dtype))
    return tuple(inputs), tuple(kinds)


test_inputs.__test__ = False  # type: ignore[attr-defined]


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
