"""What an option's value must be: a bad one is one line and exit code 2."""

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from ..source.shapes import MAX_SIZE

MOST_DEVICES = 1024
EVAL_DATA = (
    "labelled images, of which every step may lose none, a lower precision 1 %%: an .npz as the network takes them "
    "(images; labels, masks, or boxes and labels), or what `exporter eval` takes"
)


class Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        """Print it and exit."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def count(least: int, most: int = 100_000) -> Callable[[str], int]:
    """The type of an option that is a whole number."""

    def whole(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return whole


def number(wanted: str, below: float = math.inf, zero: str = "") -> Callable[[str], float]:
    """The type of an option that is a number from 0 on; with `zero`, which says why not, above 0.

    `wanted` ends the sentence on what is no such number, and `zero` that on 0.
    """

    def real(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < below:
            raise argparse.ArgumentTypeError(f"{text!r} {wanted}")
        if zero and value == 0:
            raise argparse.ArgumentTypeError(f"{text!r} {zero}")
        return value

    return real


def devices(text: str) -> tuple[int, ...]:
    """The type of an option that is a list of devices."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and int(part) < MOST_DEVICES for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of devices; wanted some like 0,1,2")
    return tuple(int(part) for part in parts)


def names(text: str) -> tuple[str, ...]:
    """The type of an option that is a list of names."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names; wanted some like sm80,sm86 or fp16,int8")
    return tuple(dict.fromkeys(found))


def batch_range(text: str) -> tuple[int, int, int]:
    """The type of an option that is MIN:OPT:MAX images."""
    try:
        low, best, high = (int(part) for part in text.split(":"))
    except ValueError:
        low, best, high = 0, 0, 0
    if not 1 <= low <= best <= high <= MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a batch range; wanted MIN:OPT:MAX like 1:8:32")
    return low, best, high


def size_range(text: str) -> tuple[tuple[int, int], ...]:
    """The type of an option that is three sizes, each HEIGHTxWIDTH or one number for a square."""
    try:
        sizes = tuple(tuple(int(n) for n in part.split("x")) for part in text.lower().split(":"))
    except ValueError:
        sizes = ()
    squares = tuple(size * 2 if len(size) == 1 else size for size in sizes)
    ascend = len(squares) == 3 and all(len(size) == 2 for size in squares)
    if not ascend or not all(1 <= a <= b <= c <= MAX_SIZE for a, b, c in zip(*squares, strict=True)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size range; wanted MIN:OPT:MAX like 160:224:512, or 120x160:240x320:480x640"
        )
    return tuple((height, width) for height, width in squares)
