"""Names, which are the same or are not: integers that say which of several.

That nearly all of them agree may say little: where a map is of one class but for a few places, the others are to be
found again.
"""

import numpy as np

from .wanted import from_image_to_image

AGREEMENT, ENOUGH = 0.95, 20
"""Of that many positions, this share must have the same largest score, or the same name, in a lower precision."""
OF_EACH, OF_RARE = 0.75, 0.5
"""The share of a frequent name's positions, and of a rarer one's, that both have in common; the former, too, of what
tells two images apart. A rarer one has more of its positions at borders, which a lower precision moves."""
FREQUENT = 0.01
TIES = 1e-3
"""The share of names that rounding decides in float32: where two scores tie."""


def lost_names(values: np.ndarray, y: np.ndarray) -> str:
    """What of the names [images, …] in `values` is not found again in `y`, in words; "" where all are."""
    if not values.size:
        return ""
    of_image, apart = (y != values).reshape(len(y), -1).mean(axis=1), from_image_to_image(values)
    i, size = int(np.argmax(of_image)), values[0].size
    if size >= ENOUGH and of_image[i] > 1 - OF_EACH:
        return f"of image {i} {of_image[i]:.0%} of the numbers differ, at most {1 - OF_EACH:.0%} may"
    another = np.flatnonzero((of_image > OF_RARE * apart) & (apart * size >= ENOUGH))
    if len(another):
        i = int(another[0])
        return f"image {i} differs in {of_image[i]:.1%} of the numbers, and other images from it in {apart[i]:.1%}"
    names, where, times = np.unique(values, return_inverse=True, return_counts=True)
    nearest = np.searchsorted(names, y).clip(max=len(names) - 1)
    found = np.bincount(nearest[names[nearest] == y], minlength=len(names))
    common = np.bincount(where.reshape(values.shape)[values == y], minlength=len(names))
    either = times + found - common
    counts = (times >= ENOUGH) & (times >= 2 * TIES * values.size)
    shares = np.where(times >= FREQUENT * values.size, OF_EACH, OF_RARE)
    for k in np.flatnonzero(counts & (common < shares * either)):
        return f"of {int(names[k])} only {common[k] / either[k]:.0%} are where they were, wanted {shares[k]:.0%}"
    rest = ~counts & (times < times.max())
    if times[rest].sum() >= ENOUGH and common[rest].sum() < OF_RARE * either[rest].sum():
        return f"of the rare numbers only {common[rest].sum() / either[rest].sum():.0%} are where they were"
    return ""
