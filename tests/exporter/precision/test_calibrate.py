"""Ranges from images, and the files that images come from."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.exporter.errors import ExportError, SourceError
from plainconv.exporter.precision import calibrate, read_images
from plainconv.exporter.precision.calibrate import METHODS, ranges_of

WANTED = {"x": np.zeros((1, 3, 2, 2), np.float32)}
FEW_BINS = 256
"""Entropy tries every number of bins: with fewer it takes less."""

NET = """(float[2,3,6,6] x) => (float[2,5] y) {
    a = Conv(x, v)
    r = Relu(a)
    b = Conv(r, w)
    m = GlobalAveragePool(b)
    f = Flatten(m)
    y = Gemm<transB=1>(f, p)
}"""
WEIGHTS = {"v": (4, 3, 3, 3), "w": (6, 4, 3, 3), "p": (5, 6)}


def images(count=7):
    x = np.random.default_rng(0).standard_normal((count, 3, 6, 6)).astype(np.float32)
    x[0, 0, 0, 0] = 40  # one that percentile clips
    return x


def magnitudes(made, outputs, x):
    """max |value| of what the layers read, by running the graph with these values as outputs."""
    model = made(NET, WEIGHTS)
    found = {v.name: v for n in model.graph for v in n.outputs}
    model.graph.outputs[:] = [found["r"], found["f"]]
    runs = [outputs(model, np.concatenate([x[i : i + 1]] * 2)) for i in range(len(x))]
    peaks = [max(np.abs(run[k]).max() for run in runs) for k in range(2)]
    return {"x": np.abs(x).max(), "r": peaks[0], "f": peaks[1]}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_minmax_is_the_largest_magnitude(made, outputs, count):
    """Given images, their number no multiple of the batch → max |x| of what conv and Gemm read, and of nothing else."""
    x = images(count)
    found = ranges_of(made(NET, WEIGHTS), {"x": x}, "minmax", 2)
    wanted = magnitudes(made, outputs, x)
    assert found.keys() == wanted.keys()
    assert all(found[name] == pytest.approx(wanted[name], rel=1e-6) for name in wanted)


@pytest.mark.parametrize("method", sorted({*METHODS} - {"auto", "minmax"}))
def test_other_methods_clip(made, monkeypatch, method):
    """Given an outlier → a range for the same values, finite and positive, beyond no largest magnitude but by a bin."""
    monkeypatch.setattr(calibrate, "BINS", FEW_BINS)
    model, x = made(NET, WEIGHTS), images(120)  # of more than 10,000 values the rarest in 10,000 is clipped
    most = ranges_of(model, {"x": x}, "minmax", 2)
    found = ranges_of(model, {"x": x}, method, 2)
    assert found.keys() == most.keys()
    for name, largest in found.items():
        assert 0 < largest <= most[name] * (1 + 2 / FEW_BINS)
    assert found["x"] < most["x"] * (1 - 2 / FEW_BINS)


@pytest.mark.parametrize("method", sorted({*METHODS} - {"auto"}))
def test_constant_images_have_a_range(made, monkeypatch, method):
    """Given images of zeros → finite ranges."""
    monkeypatch.setattr(calibrate, "BINS", FEW_BINS)
    found = ranges_of(made(NET, WEIGHTS), {"x": np.zeros((3, 3, 6, 6), np.float32)}, method, 2)
    assert all(np.isfinite(r) and r >= 0 for r in found.values())


def test_no_more_images_than_are_useful(made, monkeypatch):
    monkeypatch.setattr(calibrate, "MAX_IMAGES", 2)
    x = images(4)
    x[3] = 1000
    assert ranges_of(made(NET, WEIGHTS), {"x": x}, "minmax", 2)["x"] == 40


def test_calibrator_that_fails_is_an_error_of_one_line(made):
    x = np.full((2, 3, 6, 6), np.nan, np.float32)
    with pytest.raises(ExportError, match=r"calibration by percentile failed .*; try another method") as raised:
        ranges_of(made(NET, WEIGHTS), {"x": x}, "percentile", 2)
    assert "\n" not in str(raised.value)


def test_images_are_read_as_float32(tmp_path):
    """Given float64 images, and more than was asked for → float32 images alone."""
    path = tmp_path / "i.npz"
    x = np.arange(24, dtype=np.float64).reshape(2, 3, 2, 2)
    np.savez_compressed(path, images=x, labels=np.zeros(2))
    found = read_images(path, WANTED)["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x)


GOOD = np.ones((2, 3, 2, 2), np.float32)


def test_images_of_several_inputs_by_name_and_integers_where_they_are_taken(tmp_path):
    path = tmp_path / "i.npz"
    pixels, depth = np.full((2, 4, 4, 3), 200, np.uint8), np.ones((2, 1, 4, 4))
    np.savez(path, rgb=pixels, depth=depth)
    wanted = {"rgb": np.zeros((1, 4, 4, 3), np.uint8), "depth": np.zeros((1, 1, 4, 4), np.float32)}
    found = read_images(path, wanted)
    assert found["rgb"].dtype == np.uint8 and found["depth"].dtype == np.float32
    assert (found["rgb"] == 200).all() and (found["depth"] == 1).all()
    with pytest.raises(SourceError, match="lacks mask"):
        read_images(path, wanted | {"mask": wanted["depth"]})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GOOD}, "lacks images"),
        ({"images": GOOD[:, :2]}, r"are \[2, 2, 2, 2\], want \[n, 3, 2, 2\]"),
        ({"images": GOOD[0]}, r"want \[n, 3, 2, 2\]"),
        ({"images": np.float32(1)}, r"want \[n, 3, 2, 2\]"),
        ({"images": GOOD[:0]}, r"are \[0, 3, 2, 2\]"),
        ({"images": GOOD * np.nan}, "not all finite"),
        ({"images": GOOD * np.inf}, "not all finite"),
        ({"images": np.full(GOOD.shape, 1e300)}, "not all finite"),
        ({"images": GOOD.astype(object)}, "write it with numpy.savez"),
        ({"images": GOOD.astype(str)}, "want finite numbers"),
        ({"images": GOOD.astype(complex)}, "want finite numbers"),
        ({"images": GOOD.astype(np.uint8)}, "images are uint8, want floats, preprocessed .*astype"),
        ({"images": GOOD.astype(bool)}, "images are bool, want floats"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_line(tmp_path, arrays, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(SourceError, match=message) as raised:
        read_images(path, WANTED)
    assert "\n" not in str(raised.value)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no .npz file"),
        (b"images", "no .npz file"),
        (b"PK\x03\x04", "no .npz file"),
        (pickle.dumps({"images": 1}), "no .npz file"),
        (npy(GOOD), "holds a single array"),
    ],
    ids=["empty", "text", "cut short", "pickle", "npy"],
)
def test_file_of_another_kind_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as raised:
        read_images(path, WANTED)
    assert "\n" not in str(raised.value)


def test_missing_file_and_folder_are_refused(tmp_path):
    for path, message in ((tmp_path / "none.npz", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SourceError, match=message):
            read_images(path, WANTED)


@given(st.data())
def test_damaged_file_is_refused_or_read(tmp_path_factory, data):
    """Given an .npz file of which some bytes are others → SourceError in one line, or images of the right shape."""
    file = io.BytesIO()
    np.savez_compressed(file, images=np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2))
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "i.npz"
    path.write_bytes(content)
    try:
        assert read_images(path, WANTED)["x"].shape[1:] == (3, 2, 2)
    except SourceError as error:
        assert "\n" not in str(error)
