"""Names, which are the same or are not: integers that say which of several.

That nearly all of them agree may say little: where a map is of one class but for a few places, the others are to be
found again.
"""

import numpy as np

from .wanted import from_image_to_image

AGREEMENT, ENOUGH = 0.95, 20
"""Of that many positions, this share must have the same largest score, or the same name, in a lower precision."""
OF_EACH, OF_RARE, OF_FEW = 0.75, 0.65, 0.25
"""The share of a frequent name's positions, of a rarer one's, and of one that is there a few times, that both have in
common; the first, too, of what tells two images apart. The rarer it is, the more of them are borders, which a lower
precision moves, or noise; of a name that is lost none are left."""
FREQUENT, SOME = 0.01, 8
"""The share of all positions that a frequent name has; how many a name must have to be told from chance."""
FEW = 4
"""Names by which two images differ, and images of another class than most: fewer tell nothing."""
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
    another = np.flatnonzero((of_image > 0.5 * apart) & (apart * size >= FEW))
    if len(another) > (apart[another[:1]] * size < ENOUGH).sum():
        i = int(another[0])
        return f"image {i} differs in {of_image[i]:.1%} of the numbers, and other images from it in {apart[i]:.1%}"
    names, where, times = np.unique(values, return_inverse=True, return_counts=True)
    nearest = np.searchsorted(names, y).clip(max=len(names) - 1)
    found = np.bincount(nearest[names[nearest] == y], minlength=len(names))
    common = np.bincount(where.reshape(values.shape)[values == y], minlength=len(names))
    either = times + found - common
    shares = np.where(times >= FREQUENT * values.size, OF_EACH, OF_RARE)
    shares[(times < ENOUGH) | (times < 2 * TIES * values.size)] = OF_FEW
    for k in np.flatnonzero((times >= SOME) & (common < shares * either)):
        return f"of {int(names[k])} only {common[k] / either[k]:.0%} are where they were, wanted {shares[k]:.0%}"
    return ""
