"""What a bundle says of images: what it may say, and what it may not."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.exporter.bundle import Preprocessing, TensorSpec
from plainconv.exporter.bundle.preprocessing import misfit, preprocessing_of_json
from plainconv.exporter.bundle.presets import PRESETS, preprocessing_given, preset
from plainconv.exporter.errors import SourceError

YOLO = preset("yolo-384x640")
assert YOLO is not None
NAMES = [*PRESETS, "imagenet-320", "yolo-384x640", "coco-64", "digits-8", "imagenet-tencrop"]


def test_presets_are_the_published_ones() -> None:
    imagenet, large = preset("imagenet"), preset("imagenet-320")
    assert imagenet is not None and large is not None and imagenet.resize is not None and large.resize is not None
    assert (imagenet.resize.size, imagenet.crop) == ((256,), (224, 224))
    assert (large.resize.size, large.crop) == ((365,), (320, 320))
    assert YOLO is not None and YOLO.letterbox is not None and YOLO.letterbox.value == (114, 114, 114)
    assert YOLO.shape == (3, 384, 640) and preset("none") is None
    assert str(imagenet) == (
        "RGB, shortest side to 256 (bilinear), the middle 224×224, "
        "(v/255 − [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(name: str) -> None:
    made = preset(name)
    assert made is not None
    written = json.loads(json.dumps(made.as_json()))
    assert preprocessing_of_json(written) == made == preprocessing_given(written)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("version",), 3, "version is 3, wanted 1 or 2"),
        (("version",), True, "version is True, wanted 1"),
        (("color",), "RGB", "color is 'RGB', wanted 'rgb' or 'bgr' or 'gray'"),
        (("color",), "gray", "letterbox.value is [114.0, 114.0, 114.0], wanted 1 numbers"),
        (("resize", "rule"), "cover", "resize.rule is 'cover', wanted"),
        (("resize", "rule"), "longest", "resize.size is [384, 640], wanted 1 whole numbers from 1 to 32768"),
        (("resize", "rule"), "exact", "letterbox and the rule 'letterbox' of resize go together"),
        (("resize", "size"), [384, 0], "resize.size is [384, 0], wanted 2 whole numbers"),
        (("resize", "size"), [384, 640.0], "resize.size is [384, 640.0]"),
        (("resize", "antialias"), 1, "resize.antialias is 1, wanted true or false"),
        (("resize",), [1], "resize is [1], wanted an object or null"),
        (("letterbox",), None, "letterbox and the rule 'letterbox' of resize go together"),
        (("letterbox", "value"), [0, 0, 256], "wanted numbers from 0 to 255"),
        (("letterbox", "stride"), 0, "letterbox.stride is [0], wanted 1 whole numbers"),
        (("scale",), 0, "scale is 0, wanted a number above 0"),
        (("std",), [1, 1, -1], "std is [1, 1, -1], wanted numbers above 0"),
        (("mean",), [1, 1, float("nan")], "mean is [1, 1, nan], wanted 3 numbers, one a channel"),
        (("layout",), "nchwc", "layout is 'nchwc', wanted 'nchw' or 'nhwc'"),
        (("type",), "uint8", "type is 'uint8', wanted with it scale 1, mean 0 and std 1"),
        (("gamma",), 2.2, "gamma is unknown, wanted version, color"),
        (("resize", "gamma"), 2.2, "resize.gamma is unknown"),
        (("crop",), ..., "crop is missing"),
    ],
)
def test_the_vocabulary_is_closed(path: tuple[str, ...], value: object, said: str) -> None:
    """Given one thing that is missing, unknown or unlike the vocabulary -> which, and what was wanted."""
    assert YOLO is not None
    data = json.loads(json.dumps(YOLO.as_json()))
    at = data
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    with pytest.raises(ValueError) as caught:
        preprocessing_of_json(data)
    assert said in str(caught.value) and "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 400) | st.floats() | st.sampled_from(["rgb", "exact", "nchw", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rule", "size", "value"]), inner),
)


@given(key=st.sampled_from(list(YOLO.as_json())), value=JSON)
def test_any_member_is_read_or_refused(key: str, value: object) -> None:
    """Given any value of a member -> a record that is written as it was read, or one line; never another error."""
    assert YOLO is not None
    data = {**copy.deepcopy(YOLO.as_json()), key: value}
    try:
        made = preprocessing_of_json(data)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(made, Preprocessing) and preprocessing_of_json(made.as_json()) == made


@pytest.mark.parametrize(
    ("given", "inputs", "fits"),
    [
        ("imagenet", [("x", "float32", (1, 3, 224, 224))], True),
        ("imagenet", [("x", "float32", ("n", 3, "h", "w"))], True),
        ("imagenet", [("x", "float16", (1, 3, 224, 224))], False),
        ("imagenet", [("x", "float32", (1, 1, 224, 224))], False),
        ("imagenet", [("x", "float32", (1, 3, 224, 256))], False),
        ("imagenet", [("x", "float32", (1, 224, 224, 3))], False),
        ("imagenet", [("x", "float32", (1, 3, 224, 224)), ("y", "float32", (1, 3, 224, 224))], False),
        ("imagenet", [("x", "float32", (1, 30))], False),
        ("imagenet-tencrop", [("x", "float32", ("n", 3, 224, 224))], True),
        ("imagenet-tencrop", [("x", "float32", (12, 3, 224, 224))], True),
        ("imagenet-tencrop", [("x", "float32", (9, 3, 224, 224))], False),
        ({"color": "gray"}, [("x", "float32", (1, 1, 8, 8))], True),  # images of 8×8
        ({"resize": {"rule": "longest", "size": [8]}}, [("x", "float32", (1, 3, 8, 8))], False),
        ({"layout": "nhwc", "type": "uint8", "crop": [8, 9]}, [("x", "uint8", (1, 8, 9, 3))], True),
    ],
)
def test_what_fits_a_network(given, inputs, fits) -> None:  # type: ignore[no-untyped-def]
    made = preprocessing_given(given)
    assert made is not None
    problem = misfit(made, tuple(TensorSpec(*each) for each in inputs))
    assert (problem is None) == fits and (problem is None or "the network takes " in problem)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("imagnet", "there is no such preset; wanted one of imagenet, coco, yolo, digits, none"),
        ("yolo-0", "there is no such preset"),
        ("yolo-tencrop", "crops is 10, wanted with it crop, their size, and no letterbox"),
        ({"crops": 10}, "crops is 10, wanted with it crop"),
        ({"crops": 5, "crop": [8, 8]}, "crops is 5, wanted 10"),
        ({"version": 1, "crops": 10, "crop": [8, 8]}, "crops is unknown, wanted version, color"),
        ("yolo-99999", "resize.size is (99999, 99999)"),
        ("missing.json", "missing.json cannot be read (No such file or directory)"),
        ({"colour": "rgb"}, "preprocessing: colour is unknown, wanted version, color"),
        ({"color": ["rgb"]}, "preprocessing: color is ['rgb']"),
    ],
)
def test_what_a_user_gives_wrongly(given, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SourceError) as caught:
        preprocessing_given(given)
    assert said in str(caught.value)


def test_a_file_says_what_is_not_plain(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "mine.json"
    path.write_text('{"color": "bgr", "resize": {"rule": "exact", "size": [4, 6]}, "mean": [1, 2, 3]}')
    made = preprocessing_given(path)
    assert made is not None and made == preprocessing_given(str(path))
    assert (made.color, made.scale, made.mean, made.std, made.shape) == ("bgr", 1, (1, 2, 3), (1, 1, 1), (3, 4, 6))
    for text, said in (("[1]", "is a list"), ("{", "is not JSON"), ('{"scale": 0}', "mine.json: scale is 0, wanted")):
        path.write_text(text)
        with pytest.raises(SourceError, match=said):
            preprocessing_given(path)
