"""An image file as a network's input, and a row of scores as classes."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plainconv.engines.serving.refusals import (
    BadRequestError,
    FailedError,
    RefusedError,
    TooLargeError,
)
from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.models import DIGITS, IMAGENET

Image = pytest.importorskip("PIL.Image")
from plainconv.engines.serving.page import images as page_images  # noqa: E402  Pillow is there
from plainconv.engines.serving.page.images import (  # noqa: E402
    ImageInput,
    image_input,
    open_image,
    prepare,
    top_classes,
)

NOISE = np.random.default_rng(7).integers(0, 256, (40, 64, 3), np.uint8)
LOGITS = TensorSpec("logits", "float32", ("N", 10))


def spec(*shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("x", dtype, shape)


def wanted(height: int, width: int, color: str = "gray", **more: Any) -> ImageInput:
    channels = {"gray": 1, "RGB": 3}[color]
    return image_input({"color": color, **more}, [spec("N", channels, height, width)], [LOGITS])


def saved(image: Any, kind: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def input_of(data: bytes, target: ImageInput) -> Any:
    return prepare(open_image(data), target)[0]


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size; no pixel of it is there."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_an_image_of_the_inputs_size_is_taken_as_it_is() -> None:
    """Given RGB pixels -> (v/255 − mean) / std in float64, rounded once, channels first."""
    target = image_input(IMAGENET, [spec(1, 3, 40, 64)], [LOGITS])
    exact = (NOISE / 255 - np.array(IMAGENET["mean"])) / np.array(IMAGENET["std"])
    x, how = prepare(open_image(saved(Image.fromarray(NOISE))), target)
    assert x.dtype == np.float32 and x.flags.c_contiguous
    assert np.array_equal(x[0], exact.astype(np.float32).transpose(2, 0, 1))
    assert how == "PNG of 64×40, RGB"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types_of_floats(dtype: str) -> None:
    target = image_input({"range": [0, 255]}, [spec(1, 3, 40, 64, dtype=dtype)], [LOGITS])
    x = input_of(saved(Image.fromarray(NOISE)), target)
    assert x.dtype.name == dtype and np.array_equal(x[0].astype(np.float64), NOISE.transpose(2, 0, 1))


def test_scaling_is_that_of_the_networks_own_preprocessing() -> None:
    """Given 8×8 pixels -> what models.digits makes of such an image."""
    small = NOISE[:8, :8, 0]
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(small / 255)[None, None], scale_factor=4, mode="bilinear", align_corners=False
    )
    target = image_input(DIGITS, [spec("N", 1, 32, 32)], [LOGITS])
    x, how = prepare(open_image(saved(Image.fromarray(small))), target)
    np.testing.assert_allclose(x, (reference.numpy() - 0.3) / 0.4, atol=1e-6)
    assert how == "PNG of 8×8, scaled to 32×32 (bilinear), gray"


def test_making_smaller_averages() -> None:
    """Given twice the size -> what torch's antialiased bilinear filter gives, nothing rounded to 8 bits."""
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(NOISE.astype(np.float64)).permute(2, 0, 1)[None], (20, 32), mode="bilinear", antialias=True
    )
    x = input_of(saved(Image.fromarray(NOISE)), wanted(20, 32, "RGB", range=[0, 255]))
    np.testing.assert_allclose(x, reference.numpy(), atol=1e-3)


@pytest.mark.parametrize(
    ("size", "cut"),
    [
        ((40, 20), np.s_[:, 22:42]),
        ((20, 64), np.s_[10:30, :]),
        ((40, 63), np.s_[:, 0:63]),
    ],
)
def test_other_proportions_are_cut(size: tuple[int, int], cut: Any) -> None:
    """Given an image that is wider or higher than the input -> its middle."""
    x, how = prepare(open_image(saved(Image.fromarray(NOISE))), wanted(*size, range=[0, 255]))
    assert np.array_equal(x[0, 0], np.asarray(Image.fromarray(NOISE).convert("L"))[cut])
    assert how == f"PNG of 64×40, its middle {size[1]}×{size[0]}, gray"


def test_a_photograph_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the left
    x, how = prepare(open_image(saved(Image.fromarray(NOISE), exif=exif)), wanted(64, 40, "RGB", range=[0, 255]))
    assert np.array_equal(x[0].transpose(1, 2, 0), np.rot90(NOISE, -1))
    assert "turned upright" in how


def test_kinds_of_pixels() -> None:
    """Given other modes than RGB of 8 bits -> the same colors; what is transparent is white."""
    gray = NOISE[..., 0]
    deep = gray.astype(np.uint16) * 257
    target, colored = wanted(40, 64, range=[0, 255]), wanted(40, 64, "RGB", range=[0, 255])
    for image in (Image.fromarray(gray), Image.fromarray(deep), Image.fromarray(gray).convert("P")):
        assert np.array_equal(input_of(saved(image), target)[0, 0], gray), image.mode
        assert np.array_equal(input_of(saved(image), colored)[0], np.stack([gray] * 3)), image.mode
    bits = Image.fromarray(gray > 99)
    assert np.array_equal(input_of(saved(bits), target)[0, 0], np.where(gray > 99, 255, 0))
    alpha = np.where(gray > 99, 255, 0).astype(np.uint8)
    shown = np.where(alpha[..., None], NOISE, 255).transpose(2, 0, 1)
    clear = Image.fromarray(np.dstack([NOISE, alpha]))
    assert np.array_equal(input_of(saved(clear), colored)[0], shown)
    assert np.array_equal(input_of(saved(clear, "WEBP", lossless=True, exact=True), colored)[0], shown)
    lines = Image.new("CMYK", (64, 40), (0, 255, 255, 0))
    assert input_of(saved(lines, "JPEG"), colored)[0].mean((1, 2)) == pytest.approx([255, 0, 0], abs=3)
    frames = [Image.new("L", (64, 40), shade) for shade in (50, 200)]
    assert input_of(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), target).mean() == 50


def test_a_fixed_batch_gets_the_image_in_every_row() -> None:
    target = image_input({"color": "gray"}, [spec(3, 1, 40, 64)], [LOGITS])
    x = input_of(saved(Image.fromarray(NOISE)), target)
    assert x.shape == (3, 1, 40, 64) and np.array_equal(x[0], x[2])


def test_open_sizes() -> None:
    """Given open axes -> what the engine is tuned for and its least batch; without an engine 224, and one row."""
    open_input = [spec("N", 3, "H", "W")]
    found = image_input({"layout": "NCHW"}, open_input, [LOGITS])
    assert (found.rows, found.height, found.width, found.color) == (1, 224, 224, "RGB")
    profile = {"x": ShapeRange((2, 3, 32, 32), (4, 3, 96, 128), (8, 3, 256, 256))}
    found = image_input({"layout": "NCHW"}, open_input, [LOGITS], [profile])
    assert (found.rows, found.height, found.width) == (2, 96, 128)


def test_what_is_said_of_an_input() -> None:
    assert str(image_input(DIGITS, [spec(1, 1, 32, 48)], [LOGITS])) == (
        "gray images of 48×32, (pixel − 0.3) / 0.4 with pixels 0 to 1"
    )
    assert "(pixel − [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]" in str(
        image_input(IMAGENET, [spec(1, 3, 8, 8)], [LOGITS])
    )


GRAY = {"color": "gray"}


@pytest.mark.parametrize(
    ("preprocessing", "inputs", "outputs", "said"),
    [
        (None, [spec(1, 1, 8, 8)], [LOGITS], "the bundle has no preprocessing"),
        ({}, [spec(1, 1, 8, 8)], [LOGITS], "the bundle has no preprocessing"),
        (GRAY, [spec("N", 4)], [LOGITS], "wanted one floating-point input"),
        (GRAY, [spec(1, 1, 8, 8), spec(1, 1, 8, 8)], [LOGITS], "wanted one floating-point input"),
        (GRAY, [spec(1, 1, 8, 8, dtype="uint8")], [LOGITS], "wanted one floating-point input"),
        (GRAY, [spec(1, 1, 8, 8)], [spec(1, 4, 8, 8)], r"wanted an output \[batch, classes\]"),
        (GRAY, [spec(1, 1, 8, 8)], [spec(1, 1)], r"wanted an output \[batch, classes\]"),
        (GRAY, [spec(1, 3, 8, 8)], [LOGITS], "is gray, its input is x float32"),
        ({"color": "BGR"}, [spec(1, 3, 8, 8)], [LOGITS], "has color 'BGR', wanted 'gray' or 'RGB'"),
        ({"color": ["a"]}, [spec(1, 3, 8, 8)], [LOGITS], "has color"),
        ({"mean": [0]}, [spec(1, 4, 8, 8)], [LOGITS], "has color None"),
        (GRAY | {"layout": "NHWC"}, [spec(1, 1, 8, 8)], [LOGITS], "has layout 'NHWC'"),
        (GRAY | {"mean": [1, 2]}, [spec(1, 1, 8, 8)], [LOGITS], r"has mean \[1, 2\], wanted .* of length 1"),
        (GRAY | {"mean": 0.5}, [spec(1, 1, 8, 8)], [LOGITS], "has mean 0.5"),
        (GRAY | {"std": ["nan"]}, [spec(1, 1, 8, 8)], [LOGITS], "has std"),
        (GRAY | {"std": [0.0]}, [spec(1, 1, 8, 8)], [LOGITS], "wanted positive numbers"),
        (GRAY | {"range": [0]}, [spec(1, 1, 8, 8)], [LOGITS], "has range"),
    ],
)
def test_no_classifier_of_images(preprocessing: Any, inputs: Any, outputs: Any, said: str) -> None:
    """Given a bundle that the form cannot be for -> why, in one sentence."""
    with pytest.raises(BadRequestError, match=said):
        image_input(preprocessing, inputs, outputs)


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"II*\0" + b"\0" * 64]
)
def test_no_image(data: bytes) -> None:
    with pytest.raises(BadRequestError, match="the file is no image that can be read; send one of PNG, JPEG"):
        open_image(data)


def test_a_damaged_image() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = saved(Image.fromarray(NOISE), kind)
        with pytest.raises(BadRequestError, match=rf"the {kind} file is damaged|the file is no image"):
            input_of(whole[: len(whole) // 2], wanted(40, 64))


def test_a_small_file_of_many_pixels() -> None:
    """Given a header that promises too many pixels -> refused before one is decoded."""
    for width, height in ((60_000, 60_000), (12_000, 9_000), (page_images.MOST_PIXELS + 1, 1)):
        with pytest.raises(TooLargeError, match="the image has more than the 33554432 pixels"):
            open_image(png_header(width, height))
    assert open_image(png_header(4096, 4096)).size == (4096, 4096)


@given(data=st.data())
def test_whatever_the_bytes_are(data: Any) -> None:
    """Given an image file with bytes changed, cut or added -> an input, or a sentence."""
    kind = data.draw(st.sampled_from(page_images.FORMATS))
    changed = bytearray(saved(Image.fromarray(NOISE[:16, :16]), kind))
    for place in data.draw(st.lists(st.integers(0, len(changed) - 1), max_size=6)):
        changed[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(changed)))
    more = data.draw(st.binary(max_size=8))
    try:
        x = input_of(bytes(changed[:end]) + more, wanted(8, 8))
    except RefusedError as error:
        assert error.http in (400, 413) and "\n" not in str(error)
    else:
        assert x.shape == (1, 1, 8, 8) and np.isfinite(x).all()


def test_top_classes_of_logits() -> None:
    """Given logits -> the highest first, equal ones by number, shares that are their softmax."""
    logits = np.array([[0.0, 3.0, -1.0, 3.0, 2.0, -9.0, 1.0], [9, 9, 9, 9, 9, 9, 9]], np.float32)
    top, is_probability = top_classes(logits)
    assert not is_probability and [each.number for each in top] == [1, 3, 4, 6, 0]
    assert [each.score for each in top] == [3, 3, 2, 1, 0]
    softmax = torch.from_numpy(logits[0].astype(np.float64)).softmax(0).tolist()
    assert [each.share for each in top] == pytest.approx([softmax[i] for i in (1, 3, 4, 6, 0)])
    top, _ = top_classes(np.array([[1e4, -1e4]], np.float32))
    assert [each.share for each in top] == [1, 0]


def test_top_classes_of_probabilities() -> None:
    top, is_probability = top_classes(np.array([[0.25, 0.75]], np.float16))
    assert is_probability and [(each.number, each.share) for each in top] == [(1, 0.75), (0, 0.25)]


def test_scores_that_are_none() -> None:
    with pytest.raises(FailedError, match="values that are no numbers"):
        top_classes(np.array([[1, np.nan]], np.float32))
    with pytest.raises(BadRequestError, match="wanted two classes or more"):
        top_classes(np.array([[1]], np.float32))
