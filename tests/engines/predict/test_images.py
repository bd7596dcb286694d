"""Images of every kind, good and bad."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from plainconv.engines.predict.images import MOST_PIXELS, opened, upright
from plainconv.exporter.errors import ImageError

NOISE = np.random.default_rng(7).integers(0, 256, (40, 64, 3), np.uint8)
LEFT_DARK = np.repeat(np.array([[0, 255]], np.uint8), 8, 0).repeat(8, 1)


def saved(image, kind="PNG", **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def pixels(source, color="rgb"):
    return np.asarray(upright(opened(source), color)[0])


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size; no pixel of it is there."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_path_bytes_an_image_and_an_array_are_the_same(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved(Image.fromarray(NOISE)))
    for source in (path, str(path), path.read_bytes(), memoryview(path.read_bytes()), Image.fromarray(NOISE), NOISE):
        assert np.array_equal(pixels(source), NOISE)
    assert np.array_equal(
        pixels(NOISE[:, ::-2], "gray"), np.asarray(Image.fromarray(NOISE[:, ::-2].copy()).convert("L"))
    )
    assert np.array_equal(pixels(NOISE[..., 0]), np.repeat(NOISE[..., :1], 3, 2))
    assert np.array_equal(pixels(NOISE[..., :1], "gray"), NOISE[..., 0])


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), "PNG", NOISE[..., 0]),  # 16-bit
        (Image.fromarray(NOISE).convert("P", palette=Image.Palette.ADAPTIVE, colors=256), "PNG", None),
        (Image.fromarray(NOISE).convert("CMYK"), "JPEG", None),
        (Image.fromarray(NOISE[..., 0] > 127), "PNG", np.where(NOISE[..., 0] > 127, 255, 0)),
        (Image.fromarray(NOISE[:1, :1]), "PNG", NOISE[:1, :1]),  # one pixel
        (Image.fromarray(np.dstack([NOISE, np.full((40, 64), 255, np.uint8)])), "PNG", NOISE),
        (Image.fromarray(np.dstack([NOISE, np.zeros((40, 64), np.uint8)])), "PNG", np.full_like(NOISE, 255)),  # clear
    ],
)
def test_any_kind_of_pixel(image, kind, expected):
    """Given 16-bit, palette, CMYK, alpha, 1-bit, one pixel -> 8-bit RGB, as Pillow shows it, on white."""
    data = saved(image, kind)
    found = pixels(data)
    if expected is None:
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = np.repeat(expected[..., None], 3, 2) if expected.ndim == 2 else expected
    assert found.dtype == np.uint8 and np.array_equal(found, expected)


@pytest.mark.parametrize(("tag", "turned"), [(1, LEFT_DARK), (2, LEFT_DARK[:, ::-1]), (6, np.rot90(LEFT_DARK, -1))])
def test_it_is_held_as_exif_says(tag, turned):
    exif = Image.Exif()
    exif[0x0112] = tag
    plain, steps = upright(opened(saved(Image.fromarray(LEFT_DARK), exif=exif)), "gray")
    assert np.array_equal(np.asarray(plain), turned) and ("turned upright" in steps) == (tag != 1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"", "the file is no image that can be read; give one of PNG, JPEG"),
        (b"GIF89a", "no image"),
        (saved(Image.fromarray(NOISE), "TIFF"), "no image"),
        ("/nowhere/a.png", "/nowhere/a.png cannot be read (No such file"),
        ("/tmp", "cannot be read (Is a directory)"),
        (png_header(30_000, 30_000), f"more than {MOST_PIXELS} pixels"),
        (NOISE.astype(np.float32), "the image is float32 [40, 64, 3], wanted uint8 [height, width, 3]"),
        (np.zeros((3, 8, 8), np.uint8), "uint8 [3, 8, 8]"),
        (np.zeros((0, 8, 3), np.uint8), "uint8 [0, 8, 3]"),
        (7, "the image is a int, wanted a path, bytes"),
        (None, "the image is a NoneType"),
    ],
)
def test_what_is_no_image(source, said):
    with pytest.raises(ImageError) as caught:
        opened(source)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.is_large == ("pixels" in said and isinstance(source, bytes))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_file_cut_short(kind):
    data = saved(Image.fromarray(NOISE), kind)
    assert pixels(data).shape == (40, 64, 3)
    with pytest.raises(ImageError, match=r"damaged, or cut short|no image"):
        pixels(data[: len(data) // 2])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_give_pixels_or_one_line(data):
    raw = bytearray(saved(Image.fromarray(NOISE), data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = opened(bytes(raw), 10**6)
        assert upright(image, "rgb")[0].mode == "RGB"
    except ImageError as error:
        assert "\n" not in str(error)
