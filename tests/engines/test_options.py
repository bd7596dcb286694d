"""Optimization profiles from batches and sizes, and what is wrong with them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.engines.options import BuildOptions, option_problems, profile_of, profile_problems
from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

IMAGE = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
FIXED = TensorSpec("image", "float32", (1, 3, 224, 224))
SIZES = ((160, 120), (224, 224), (512, 640))


def test_profile_of_batch_and_size():
    """Given inputs that leave axes 0, 2 and 3 open -> the three shapes of each; of a fixed one, its shape thrice."""
    label = TensorSpec("label", "int64", (4,))
    assert profile_of([IMAGE, label], (1, 8, 32), SIZES) == {
        "image": ShapeRange((1, 3, 160, 120), (8, 3, 224, 224), (32, 3, 512, 640)),
        "label": ShapeRange((4,), (4,), (4,)),
    }


def test_profile_of_one_open_axis():
    batch = TensorSpec("x", "float32", ("N", 3, 8, 8))
    wide = TensorSpec("x", "float32", (1, 3, 8, "W"))
    assert profile_of([batch], (1, 2, 4), None)["x"].max == (4, 3, 8, 8)
    assert profile_of([wide], None, SIZES)["x"] == ShapeRange((1, 3, 8, 120), (1, 3, 8, 224), (1, 3, 8, 640))


def test_fixed_shapes_have_no_profile():
    assert profile_of([FIXED], None, None) == {}


@pytest.mark.parametrize(
    ("spec", "batch", "size", "message"),
    [
        (
            IMAGE,
            None,
            SIZES,
            r"\[batch, 3, height, width\] has an open batch and no sizes for it; give --dynamic-batch",
        ),
        (IMAGE, (1, 2, 4), None, "has an open height or width and no sizes for it; give --dynamic-size"),
        (FIXED, (1, 2, 4), None, "has a fixed batch; build without --dynamic-batch"),
        (FIXED, None, SIZES, "has a fixed height or width; build without --dynamic-size"),
        (IMAGE, (4, 1, 8), SIZES, "dynamic batch is 4:1:8, wanted 1 <= MIN <= OPT <= MAX"),
        (IMAGE, (0, 1, 8), SIZES, "dynamic batch is 0:1:8, wanted"),
        (IMAGE, (1, 1, 2**31), SIZES, "dynamic batch is 1:1:2147483648, wanted"),
        (IMAGE, (1, 1, 8), SIZES[::-1], "dynamic size is 512x640:224x224:160x120, wanted"),
        (TensorSpec("t", "int64", (1, "length")), None, None, r"axis 1 of t int64\[1, length\] is open, only batch"),
    ],
)
def test_what_no_profile_covers(spec, batch, size, message):
    """Given sizes that do not suit the inputs -> one line: found, wanted, remedy."""
    with pytest.raises(EngineError, match=message) as raised:
        profile_of([spec], batch, size)
    assert "\n" not in str(raised.value)


# --- profiles against a parsed network -----------------------------------------------------------------------------

OPEN = {"image": (-1, 3, -1, -1)}
GOOD = {"image": ShapeRange((1, 3, 8, 8), (2, 3, 16, 16), (4, 3, 32, 32))}


def test_good_profiles():
    assert profile_problems(OPEN, [GOOD, GOOD]) == []
    assert profile_problems({"image": (1, 3, 8, 8)}, []) == []


@pytest.mark.parametrize(
    ("shapes", "profiles", "message"),
    [
        ({"image": (1, 3, 8, 8)}, [GOOD], "it fixes every shape, and 1 optimization profiles are given; give none"),
        (OPEN, [], "image is [-1, 3, -1, -1], whose open axes (-1) no optimization profile covers; give one"),
        (OPEN, [GOOD, {}], "optimization profile 1 says nothing of image, which has open axes; add it"),
        (OPEN, [{**GOOD, "y": GOOD["image"]}], "optimization profile 0 covers y, which is no input; leave it out"),
        (
            OPEN,
            [{"image": replace(GOOD["image"], opt=(2, 4, 16, 16))}],
            "optimization profile 0: axis 1 of image is 3:4:3, but the graph fixes it to 3; give that",
        ),
        (
            OPEN,
            [{"image": replace(GOOD["image"], opt=(5, 3, 16, 16))}],
            "optimization profile 0: axis 0 of image is 1:5:4, wanted 1 <= MIN <= OPT <= MAX",
        ),
        (
            OPEN,
            [{"image": replace(GOOD["image"], min=(1, 3, 8))}],
            "optimization profile 0: image has shapes of rank 3, 4, wanted 4",
        ),
    ],
)
def test_profiles_that_do_not_suit_the_network(shapes, profiles, message):
    assert profile_problems(shapes, profiles) == [message]


@given(st.lists(st.integers(-1, 40), min_size=4, max_size=4), st.lists(st.integers(-2, 50), min_size=12, max_size=12))
def test_a_profile_without_problems_holds_what_it_says(shape, sizes):
    """Given any shape and any three shapes -> no problem only where open axes ascend from 1 and the others agree."""
    low, usual, high = (tuple(sizes[k : k + 4]) for k in (0, 4, 8))
    problems = profile_problems({"x": tuple(shape)}, [{"x": ShapeRange(low, usual, high)}])
    suits = -1 in shape and all(
        1 <= a <= b <= c if n == -1 else n == a == b == c for n, a, b, c in zip(shape, low, usual, high, strict=True)
    )
    assert (problems == []) == suits
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(optimization_level=6), "optimization level 6, wanted 0 to 5; leave it out for the default"),
        (BuildOptions(max_aux_streams=-1), "-1 auxiliary streams, wanted 0 or more; leave it out for the default"),
        (BuildOptions(optimization_level=-1), "optimization level -1, wanted 0 to 5; leave it out for the default"),
        (BuildOptions(workspace=0), "workspace of 0 bytes, wanted at least 1; leave it out for no limit"),
    ],
)
def test_options_that_no_backend_takes(options, message):
    assert option_problems(options) == [message]


def test_options_as_they_are_and_at_their_limits_have_no_problems():
    for options in (
        BuildOptions(),
        BuildOptions(optimization_level=0, workspace=1),
        BuildOptions(optimization_level=5),
    ):
        assert option_problems(options) == []
