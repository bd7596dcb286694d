"""Layout ops seen as what they do to channels: where channel c of a value comes from."""

import itertools
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .edit import ints, is_constant, producer, sole_user

LAYOUT = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Concat", "Gather")
"""Ops that only move elements."""
SYMBOL_SIZE = 3
"""What stands for a symbolic axis where an element is followed: the batch, which no reshape meddles with, and maps of
an open size where only whole channels are moved."""

MOST_ELEMENTS = 1 << 28
"""Of a value whose elements are followed."""


@dataclass(frozen=True)
class ChannelMap:
    """y[:, c] = concat(sources, axis 1)[:, index[c]]."""

    sources: tuple[Any, ...]
    index: np.ndarray
    nodes: tuple[Any, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the channels of the sources follow one another in order."""
        return np.array_equal(self.index, np.arange(sum(t.shape[1] for t in self.sources)))

    def parts(self) -> list[tuple[Any, np.ndarray, np.ndarray]]:
        """For each source: itself, the channels of y that it fills, and which of its channels fills each."""
        found, start = [], 0
        for source in self.sources:
            filled_c = np.flatnonzero((self.index >= start) & (self.index < start + source.shape[1]))
            found.append((source, filled_c, self.index[filled_c] - start))
            start += source.shape[1]
        return found


def channel_map(graph: Any, y: Any) -> ChannelMap | None:
    """The channel map that the layout ops before `y` amount to, or None where they do more than move channels.

    Only the last op may have other readers than its successor. The elements of each source are numbered, the numbers
    sent through the ops, and the outcome compared with what moving whole channels gives.
    """
    if _layout_op(y) is None:
        return None
    sources: list[Any] = []
    nodes: list[Any] = []
    numbers = _numbered(graph, y, sources, nodes, last=True)
    if not nodes or numbers is None or numbers.ndim < 3 or any(t.shape is None for t in sources):
        return None
    shapes = [_size(t) for t in sources]
    if any(
        s is None or len(s) != numbers.ndim or (s[0], *s[2:]) != (numbers.shape[0], *numbers.shape[2:]) for s in shapes
    ):
        return None
    expected = np.concatenate(_numberings(shapes), axis=1)
    # The first element of each channel says where the channel comes from; the rest must come along.
    index_C = np.searchsorted(_first_elements(expected), _first_elements(numbers))
    if index_C.max() >= expected.shape[1] or not np.array_equal(numbers, expected[:, index_C]):
        return None
    return ChannelMap(tuple(sources), index_C, tuple(nodes))


def _first_elements(numbers: np.ndarray) -> np.ndarray:
    """Of the first image, the first element of each channel."""
    firsts: np.ndarray = numbers[0].reshape(numbers.shape[1], -1)[:, 0]
    return firsts


def _size(tensor: Any) -> tuple[int, ...] | None:
    """The shape with a number in the place of each symbolic axis; None if the channels are not known, or too many."""
    if not tensor.shape or not all(isinstance(d, int) for d in tensor.shape[1:2]):
        return None
    size = tuple(d if isinstance(d, int) else SYMBOL_SIZE for d in tensor.shape)
    return size if prod(size) < MOST_ELEMENTS else None


def _layout_op(y: Any) -> Any:
    """The layout op that makes y; where more than the batch is open, only one that moves whole channels of any map."""
    node = producer(y, *LAYOUT)
    if node is None:
        return None
    if node.op in ("Concat", "Gather") and node.attrs.get("axis", 0) == 1:
        return node if node.op == "Gather" or _alike([y, *node.inputs]) else None
    maps = (y, *node.inputs) if node.op == "Concat" else (y, node.inputs[0])
    return node if all(isinstance(d, int) for t in maps for d in (t.shape or ())[1:]) else None


def _alike(maps: list[Any]) -> bool:
    """Whether each axis beside the channels is open in all maps, or in none: one size stands for all open axes."""
    shapes = [t.shape[:1] + t.shape[2:] for t in maps if t.shape is not None and len(t.shape) > 1]
    return len(shapes) == len(maps) and all(
        len({isinstance(n, int) for n in along}) == 1 for along in itertools.zip_longest(*shapes)
    )


def _numberings(shapes: list[Any]) -> list[np.ndarray]:
    """Arrays of these shapes whose elements all have different numbers."""
    out, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        out.append(np.arange(start, start + size).reshape(shape))
        start += size
    return out


def _numbered(graph: Any, y: Any, sources: list[Any], nodes: list[Any], *, last: bool) -> np.ndarray | None:
    """The numbers of the elements of y; fills `sources` and `nodes`, in the order of reading."""
    size = _size(y)
    node = _layout_op(y) if size is not None else None
    inner = last or sole_user(graph, y) is not None
    if node is None or not inner or size is None or (node.op == "Gather" and ints(node.inputs[1]) is None):
        if size is None or is_constant(y):
            return None
        before = 0
        for source in sources:
            if source is y:
                break
            before += int(np.prod(_size(source) or ()))
        else:
            sources.append(y)
        return np.arange(before, before + int(np.prod(size))).reshape(size)
    count = len(node.inputs) if node.op == "Concat" else 1
    inputs = [_numbered(graph, t, sources, nodes, last=False) for t in list(node.inputs)[:count]]
    arrays = [a for a in inputs if a is not None]
    if len(arrays) != count:
        return None
    nodes.append(node)
    if node.op == "Concat":
        if len({_beside(a, node.attrs["axis"]) for a in arrays}) > 1:
            return None  # an open axis beside a fixed one
        result = np.concatenate(arrays, axis=node.attrs["axis"])
    elif node.op == "Transpose":
        result = np.transpose(arrays[0], node.attrs.get("perm"))
    elif node.op == "Gather":
        index, axis = np.asarray(node.inputs[1].values), node.attrs.get("axis", 0)
        if index.size and not -arrays[0].shape[axis] <= index.min() <= index.max() < arrays[0].shape[axis]:
            return None
        result = np.take(arrays[0], index, axis=axis)
    elif int(np.prod(size)) == arrays[0].size:
        result = arrays[0].reshape(size)
    else:
        return None
    return result if result.shape == size else None


def _beside(array: np.ndarray, axis: int) -> tuple[int, ...]:
    """The sizes of all axes but one."""
    kept = list(array.shape)
    del kept[axis]
    return tuple(kept)


def shuffle_of(gather: Any) -> np.ndarray | None:
    """index[c] of a Gather that permutes channels, y[:, c] = x[:, index[c]]; None if it does anything else."""
    if gather is None or gather.op != "Gather" or gather.domain or gather.attrs.get("axis", 0) != 1:
        return None
    index, x = ints(gather.inputs[1]), gather.inputs[0]
    if index is None or x.shape is None or len(x.shape) < 3 or len(gather.inputs[1].shape) != 1:
        return None
    index_C = np.asarray(index, np.int64)
    whole = isinstance(x.shape[1], int) and np.array_equal(np.sort(index_C), np.arange(x.shape[1]))
    return index_C if whole else None


def inverse(index_C: np.ndarray) -> np.ndarray:
    """place[index[c]] = c."""
    return np.argsort(index_C)
