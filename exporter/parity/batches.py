"""Many images through a network, a batch at a time."""

from collections.abc import Callable, Sequence

import numpy as np

Run = Callable[..., Sequence[np.ndarray]]
"""Arrays in, one batch of each input in order; arrays out."""


def in_batches(
    run: Run, inputs: Sequence[np.ndarray], batch: int, *, fill: bool = True, whole: Sequence[bool] = ()
) -> list[np.ndarray]:
    """`run` on all images, `batch` at a time; outputs [images, …], or [batches, …] of one without a batch axis.

    Args:
        run: the network.
        inputs: [images, …]; of an input that is `whole`, which has no batch axis, the row of a batch's first image.
        batch: how many images are run at a time.
        fill: fill the last batch up, unless it may be smaller.
        whole: which of the inputs have no batch axis; none by default.

    """
    count = len(inputs[0])
    is_whole = tuple(whole) or (False,) * len(inputs)
    parts = []
    for start in range(0, count, batch):
        index = np.minimum(np.arange(start, start + batch if fill else min(start + batch, count)), count - 1)
        rows = (np.asarray(x[index[0] if w else index]) for x, w in zip(inputs, is_whole, strict=True))
        parts.append(list(run(*rows)))
    joined = []
    for outputs in zip(*parts, strict=True):
        if outputs[0].ndim and outputs[0].shape[0] == min(batch, count if not fill else batch):
            joined.append(np.concatenate(_alike(outputs, 1))[:count])
        else:
            joined.append(np.stack(_alike(outputs, 0)))  # no batch axis: one output a batch
    return joined


def _alike(outputs: Sequence[np.ndarray], start: int) -> Sequence[np.ndarray]:
    """Outputs whose axes from `start` on depend on the image, filled up to the longest: by 0, or -1 for integers."""
    if len({y.shape[start:] for y in outputs}) == 1 or len({y.ndim for y in outputs}) > 1:
        return outputs
    shape = np.max([y.shape[start:] for y in outputs], axis=0)
    value = -1 if outputs[0].dtype.kind == "i" else 0
    filled = []
    for y in outputs:
        missing = [(0, int(n) - have) for n, have in zip(shape, y.shape[start:], strict=True)]
        filled.append(np.pad(y, [(0, 0)] * start + missing, constant_values=value))
    return filled
