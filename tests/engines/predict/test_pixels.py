"""Pixels against Pillow's and PyTorch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from plainconv.engines.predict.geometry import geometry_of
from plainconv.engines.predict.pixels import input_of, resized
from plainconv.exporter.bundle import Preprocessing
from plainconv.exporter.bundle.presets import preprocessing_given

NOISE = np.random.default_rng(7).integers(0, 256, (40, 64, 3), np.uint8)
PIL_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def preprocessing(**said) -> Preprocessing:
    found = preprocessing_given(said)
    assert found is not None
    return found


def made(image, wanted, **more):
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    where = geometry_of(wanted, (picture.height, picture.width), **more)
    return input_of(picture, wanted, where)[0], where


def in_torch(image, size, way):
    x = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    y = functional.interpolate(x, size=size, mode=way, align_corners=False)
    return y[0].permute(1, 2, 0).clamp(0, 255).numpy()


@pytest.mark.parametrize("way", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(13, 29), (40, 64), (77, 130), (1, 1)])
def test_with_antialias_pixels_are_pillow_s_own(way, size):
    """Given any size -> bit for bit `Image.resize`; within 1 of torch's antialiased one, of bytes."""
    found = np.asarray(resized(Image.fromarray(NOISE), size, way, True))
    x = torch.from_numpy(NOISE).permute(2, 0, 1)[None]
    y = functional.interpolate(x, size=size, mode=way, align_corners=False, antialias=True)[0].permute(1, 2, 0)
    assert np.array_equal(found, np.asarray(Image.fromarray(NOISE).resize(size[::-1], PIL_FILTERS[way])))
    assert np.abs(found.astype(int) - y.numpy()).max() <= 1


@pytest.mark.parametrize("size", [(13, 29), (41, 67), (80, 128), (1, 1)])
def test_nearest_is_the_pixel_that_a_centre_lies_in(size):
    """Given any size -> pixel ⌊(2i + 1)·old / 2·new⌋; where no centre is on a border Pillow's, and nearest-exact."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip((40, 64), size, strict=True))
    found = np.asarray(resized(Image.fromarray(NOISE), size, "nearest", True))
    assert np.array_equal(found, NOISE[rows][:, columns])
    if size == (80, 128):
        assert np.array_equal(found, np.asarray(Image.fromarray(NOISE).resize(size[::-1], PIL_FILTERS["nearest"])))
        x = torch.from_numpy(NOISE).permute(2, 0, 1)[None].float()
        exact = functional.interpolate(x, size=size, mode="nearest-exact")[0].permute(1, 2, 0)
        assert np.array_equal(found, exact.numpy())


@pytest.mark.parametrize("way", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(13, 29), (77, 130), (1, 1), (39, 65)])
def test_without_antialias_pixels_are_torch_s_rounded(way, size):
    """Given any size -> torch's `interpolate(align_corners=False)` in float64, rounded; it differs from antialias."""
    found = np.asarray(resized(Image.fromarray(NOISE), size, way, False))
    assert np.abs(found - in_torch(NOISE, size, way)).max() <= 0.5 + 1e-9
    if size == (13, 29):
        assert np.abs(found.astype(int) - np.asarray(resized(Image.fromarray(NOISE), size, way, True))).max() > 20


def test_numbers_are_computed_in_float64_and_rounded_once():
    wanted = preprocessing(scale=1 / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    exact = (NOISE * (1 / 255) - np.array(wanted.mean)) / np.array(wanted.std)
    x, _ = made(NOISE, wanted)
    assert x.dtype == np.float32 and x.flags.c_contiguous
    assert np.array_equal(x, exact.astype(np.float32).transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_layouts_colours_and_types(dtype, color, layout):
    image = Image.fromarray(NOISE).convert("L" if color == "gray" else "RGB")
    x, _ = made(image, preprocessing(color=color, layout=layout, type=dtype))
    pixels = np.asarray(image).reshape(40, 64, -1)[..., :: -1 if color == "bgr" else 1]
    assert x.dtype.name == dtype
    assert np.array_equal(x.astype(float), pixels if layout == "nhwc" else pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width", "side"), [(40, 64, 24), (64, 40, 24), (33, 99, 32), (50, 50, 7)])
def test_the_middle_is_torchvision_s(height, width, side):
    """Given shortest and crop -> ⌊side·long / short⌋, then from round((long − side) / 2) on."""
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    wanted = preprocessing(resize={"rule": "shortest", "size": [side]}, crop=[side, side])
    x, where = made(image, wanted)
    short, long = min(height, width), max(height, width)
    inner = side * long // short
    size = (inner, side) if height >= width else (side, inner)
    whole = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    top, left = round((size[0] - side) / 2.0), round((size[1] - side) / 2.0)
    assert where.resized == size
    assert np.array_equal(x, whole[top : top + side, left : left + side].transpose(2, 0, 1))


def test_a_letterbox():
    """Given a wide image -> its value above and below, one row more below; in a corner all of it below."""
    box = {"rule": "letterbox", "size": [32, 32], "antialias": False}
    centre = preprocessing(resize=box, letterbox={"value": [114, 0, 7]}, scale=0.5)
    x, where = made(NOISE, centre)
    assert where.resized == (20, 32) and where.shift == (6, 0)
    assert np.array_equal(x[:, 0, 0], [57, 0, 3.5]) and np.array_equal(x[:, -1, -1], [57, 0, 3.5])
    corner = preprocessing(resize=box, letterbox={"value": [114, 0, 7], "place": "corner"}, scale=0.5)
    y, where = made(NOISE, corner)
    assert where.shift == (0, 0) and np.array_equal(y[:, :20], x[:, 6:26]) and np.array_equal(y[:, 20, 5], [57, 0, 3.5])
    strided = preprocessing(resize={**box, "size": [64, 64]}, letterbox={"stride": 48, "place": "corner"})
    assert made(NOISE, strided)[1].input == (48, 96)


def test_the_coco_letterbox_is_zero_after_normalizing():
    wanted = preprocessing_given("coco-32x64")
    x, where = made(NOISE, wanted)
    assert where.resized == (32, 51) and not x[:, :, 51:].any() and x[:, :, :51].any()


@settings(max_examples=150, deadline=None)
@given(
    rule=st.sampled_from(["shortest", "longest", "exact", "letterbox"]),
    image=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    stride=st.sampled_from([None, 1, 8]),
)
def test_boxes_come_back(rule, image, size, stride):
    """Given any image, rule and size -> the input has the size that it says, and corners map back onto the image's."""
    count = {"shortest": 1, "longest": 1, "exact": 2, "letterbox": 2}[rule]
    said = {"resize": {"rule": rule, "size": list(size[:count])}}
    if rule == "letterbox":
        said["letterbox"] = {"stride": stride}
    wanted = preprocessing(**said)
    x, where = made(np.zeros((*image, 3), np.uint8), wanted)
    assert x.shape[1:] == where.input and min(where.resized) >= 1
    if rule in ("exact", "letterbox") and stride is None:
        assert where.input == size
    (top, left), (height, width) = where.shift, where.resized
    assert top >= 0 and left >= 0 and top + height <= where.input[0] and left + width <= where.input[1]
    box = np.array([[left, top, left + width, top + height]], float)
    assert np.allclose(where.to_image(box), [[0, 0, image[1], image[0]]])


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (40, 40)])
def test_ten_crops_are_the_middle_the_corners_and_their_mirrors(size):
    """Given an image -> the crops of its resized pixels that torchvision's TenCrop takes, the middle first."""
    image = np.ascontiguousarray(NOISE[: size[0], :40] if size[1] <= 40 else NOISE.reshape(40, 64, 3))
    image = np.ascontiguousarray(np.rot90(NOISE)) if size == (64, 40) else image
    wanted = preprocessing(resize={"rule": "shortest", "size": [24]}, crop=[20, 17], crops=10)
    where = geometry_of(wanted, image.shape[:2])
    found = input_of(Image.fromarray(image), wanted, where)
    whole = np.asarray(Image.fromarray(image).resize(where.resized[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    height, width = where.resized
    top, left = round((height - 20) / 2), round((width - 17) / 2)
    places = [(top, left), (0, 0), (0, width - 17), (height - 20, 0), (height - 20, width - 17)]
    crops = [whole[:, y : y + 20, x : x + 17] for y, x in places]
    assert np.array_equal(found, np.stack([*crops, *(crop[..., ::-1] for crop in crops)]).astype(np.float32))
