"""An answer drawn onto its image."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .answers import Answer, Box, Instance, Segment
from .images import opened, upright

_GOLDEN = 0.618034  # of a turn: hues of neighbours lie far apart
_BLEND = 0.45
_LEAST = 12  # pixels of a letter


def drawn(source: Any, answers: Sequence[Answer]) -> Image.Image:
    """The image, upright and in RGB, with boxes, masks and labels on it; of classes the first ones in a corner.

    Raises ImageError as `upright` does.
    """
    image = upright(opened(source), "rgb")[0]
    pixels = np.asarray(image, np.float64)
    for each in answers:
        if isinstance(each, Segment | Instance):
            mixed = pixels * (1 - _BLEND) + np.array(color_of(each.number)) * _BLEND
            pixels = np.where(each.mask[..., None], mixed, pixels)
    image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    size = max(_LEAST, min(image.size) // 32)
    font = ImageFont.load_default(size)
    line = max(1, size // 6)
    for row, each in enumerate(answers):
        color, at = color_of(each.number), (line, line + row * (size + 3 * line))
        if isinstance(each, Box):
            left, top, right, bottom = each.xyxy
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=line)
            at = (int(left), max(0, int(top) - size - 2 * line))
        if at[1] < image.height:
            _write(pen, at, f"{each.label} {each.score:.2f}", color, font)
    return image


def color_of(number: int) -> tuple[int, int, int]:
    """A class's colour: the same in every image."""
    red, green, blue = colorsys.hls_to_rgb(number * _GOLDEN % 1, 0.45, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, color: tuple[int, int, int], font: Any) -> None:
    pen.rectangle(pen.textbbox(at, text, font=font), fill=color)
    pen.text(at, text, fill="white", font=font)
