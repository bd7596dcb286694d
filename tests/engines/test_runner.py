"""What a runner accepts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.engines.runner import InputCheck, check_inputs, check_outputs, dtype_of, on_gpu
from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

SPECS = (TensorSpec("image", "float32", ("batch", 3, "size", "size")), TensorSpec("scale", "float32", ("batch",)))


def good(batch=2, size=8):
    return {"image": np.zeros((batch, 3, size, size), np.float32), "scale": np.ones(batch, np.float32)}


def images(low, high):
    return {"image": ShapeRange((low, 3, 8, 8), (low, 3, 8, 8), (high, 3, 8, 8))}


class OnTheGpu:
    """A tensor that DLPack says is in GPU memory."""

    def __dlpack_device__(self):
        return (2, 0)


class Interface:
    __cuda_array_interface__ = {}  # noqa: RUF012


def test_inputs_that_fit():
    """Given inputs of the right names, dtypes and shapes, symbols of one size each -> accepted, twice over."""
    assert check_inputs(good(), SPECS) == 0
    assert check_inputs(good(7, 1), SPECS) == 0
    assert check_inputs(good(1), SPECS, (images(1, 4),)) == 0
    assert check_inputs(good(4), SPECS, (images(1, 4),)) == 0


def test_first_profile_that_covers():
    """Given several profiles -> the index of the first that covers the inputs."""
    profiles = (images(1, 1), images(2, 8), images(1, 32))
    check = InputCheck(SPECS, profiles)
    for batch, index in ((1, 0), (2, 1), (8, 1), (9, 2), (1, 0), (9, 2)):
        assert check_inputs(good(batch), SPECS, profiles) == check(good(batch)) == index


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": None}, "inputs are image, wanted image, scale"),
        ({"more": np.zeros(1)}, "inputs are image, more, scale, wanted image, scale"),
        ({"image": [1.0]}, "input image is a list, wanted a NumPy array"),
        ({"image": OnTheGpu()}, "input image is a OnTheGpu on the GPU, and this runner is on the CPU; copy it"),
        ({"image": Interface()}, "input image is a Interface on the GPU, and this runner is on the CPU; copy it"),
        ({"image": np.zeros((2, 3, 8, 8))}, "input image is dtype.'float64'., wanted float32; give it .astype"),
        ({"image": np.zeros((2, 3, 8, 8), ">f4")}, "input image is dtype.'>f4'., wanted float32"),
        ({"image": np.zeros((2, 4, 8, 8), np.float32)}, r"shape \[2, 4, 8, 8\], wanted \[batch, 3, size, size\]"),
        ({"image": np.zeros((2, 3, 8), np.float32)}, r"shape \[2, 3, 8\], wanted \[batch, 3, size, size\]"),
        ({"image": np.zeros((2, 3, 8, 9), np.float32)}, "where batch = 2, size = 8"),
        ({"image": np.zeros((0, 3, 8, 8), np.float32)}, r"shape \[0, 3, 8, 8\]"),
        ({"scale": np.ones(3, np.float32)}, r"input scale has shape \[3\], wanted \[batch\] where batch = 2"),
        ({"image": np.zeros((2, 8, 8, 3), np.float32).transpose(0, 3, 1, 2)}, "not contiguous in memory; give np.asc"),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    """Given one thing wrong -> one line that says what was found and what was wanted, however often it is asked."""
    inputs = {name: array for name, array in {**good(), **change}.items() if array is not None}
    check = InputCheck(SPECS)
    check(good())
    for ask in (check, check, lambda inputs: check_inputs(inputs, SPECS)):
        with pytest.raises(EngineError, match=message) as raised:
            ask(inputs)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("inputs", [np.zeros((2, 3)), [np.zeros(2)], None, "image"])
def test_inputs_without_names(inputs):
    for ask in (InputCheck(SPECS), lambda inputs: check_inputs(inputs, SPECS)):
        with pytest.raises(EngineError, match=r"inputs are a .*, wanted arrays by name"):
            ask(inputs)


def test_inputs_beyond_the_optimization_profiles():
    """Given shapes outside every profile -> one line that names each with its range."""
    message = (
        r"image \[5, 3, 8, 8\] is in no optimization profile of the engine \(profile 0: image \[1, 3, 8, 8\] to "
        r"\[2, 3, 8, 8\]; profile 1: image \[3, 3, 8, 8\] to \[4, 3, 8, 8\]\); split it"
    )
    with pytest.raises(EngineError, match=message):
        check_inputs(good(5), SPECS, (images(1, 2), images(3, 4)))


def test_profile_that_covers_one_input_of_two():
    """Given two profiles that each cover one of the inputs -> none covers the call."""
    one, two = (ShapeRange((low,), (low,), (high,)) for low, high in ((1, 2), (3, 4)))
    profiles = (images(1, 2) | {"scale": two}, images(3, 4) | {"scale": one})
    with pytest.raises(EngineError, match=r"image \[2, 3, 8, 8\], scale \[2\] is in no optimization profile"):
        check_inputs(good(2), SPECS, profiles)


@given(
    batch=st.integers(0, 5),
    size=st.integers(0, 3),
    dtype=st.sampled_from(["float32", "float64", ">f4", "int64"]),
    channels=st.integers(2, 4),
    order=st.sampled_from("CF"),
)
def test_remembered_shapes_change_nothing(batch, size, dtype, channels, order):
    """Given any array, after others that passed -> the check that remembers says what the one that does not says."""
    check = InputCheck(SPECS, (images(1, 4),))
    check(good(2)), check(good(3))
    inputs = good(batch, size) | {"image": np.zeros((batch, channels, size, size), dtype, order)}

    def outcome(ask):
        try:
            return ask(inputs)
        except EngineError as error:
            return str(error)

    slow = outcome(lambda inputs: check_inputs(inputs, SPECS, (images(1, 4),)))
    assert outcome(check) == outcome(check) == slow


def test_outputs_that_fit():
    check_outputs({}, SPECS, {})
    check_outputs(good(), SPECS, {})
    check_outputs({"scale": np.ones(4, np.float32)}, SPECS, {"scale": (4,)})


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"other": np.zeros(2)}, "outputs are other, wanted some of image, scale"),
        ({"scale": [1.0, 1.0]}, "output scale is a list, wanted a NumPy array"),
        ({"scale": np.zeros(2)}, "output scale is dtype.'float64'., wanted float32; make it of that dtype"),
        ({"scale": np.zeros(3, np.float32)}, r"output scale has shape \[3\], wanted \[2\]"),
        ({"scale": np.zeros(4, np.float32)[::2]}, "output scale is not contiguous in memory; give one that is"),
        ({"scale": np.broadcast_to(np.zeros(2, np.float32), (2,))}, "output scale is read-only"),
        (np.zeros(2), "outputs are a ndarray, wanted arrays by name"),
    ],
)
def test_outputs_that_do_not_fit(outputs, message):
    with pytest.raises(EngineError, match=message) as raised:
        check_outputs(outputs, SPECS, {"scale": (2,)})
    assert "\n" not in str(raised.value)


def test_where_an_array_is():
    assert on_gpu(OnTheGpu()) and on_gpu(Interface())
    assert not on_gpu(np.zeros(1)) and not on_gpu([1.0]) and not on_gpu(memoryview(b""))


def test_dtypes_by_name():
    """Given the names that a bundle may hold -> the dtype, whose arrays pass the check; another name is one line."""
    for name, size in (("float32", 4), ("float16", 2), ("bfloat16", 2), ("float8_e4m3fn", 1), ("bool", 1)):
        dtype = dtype_of(name)
        assert (dtype.name, dtype.itemsize) == (name, size)
        assert check_inputs({"x": np.zeros(3, dtype)}, (TensorSpec("x", name, ("n",)),)) == 0
    with pytest.raises(EngineError, match="unknown dtype 'float7', wanted one that NumPy or ml_dtypes has"):
        dtype_of("float7")
