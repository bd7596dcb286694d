"""`bundle-run` gives what Python's runners give, bit for bit, and its own tests pass."""

import os
import subprocess

import numpy as np
import onnx
import pytest
from places import ASSETS

from plainconv.engines.onnxruntime.runner import OnnxRuntimeRunner
from plainconv.engines.onnxruntime.split import OnnxRuntimeSplitRunner
from plainconv.exporter.bundle import Bundle, TensorSpec, write_bundle
from plainconv.exporter.cli.main import main


@pytest.fixture(scope="module")
def images():
    with np.load(ASSETS / "digits_heldout.npz") as data:
        return data["images"]


def by_tool(tool, folder, x, y, *options):
    done = tool(folder, "--input", x, "--output", y, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return np.load(y)


def by_parts(bundle, inputs):
    """What Python's runner of the parts gives, all on one group of cores."""
    (split,) = bundle.splits
    files = {part.name: bundle.file(part.file) for part in split.parts}
    with OnnxRuntimeSplitRunner(split, files, bundle.inputs, bundle.outputs, threads=1) as runner:
        return runner(inputs)


@pytest.mark.parametrize(("name", "batch", "threads"), [("whole", 1, 1), ("whole", 7, 2), ("split", 1, 1)])
def test_the_whole_network_computes_the_bits_of_python(tool, digits, images, tmp_path, name, batch, threads):
    bundle = Bundle.open(digits / name)
    x = images[:batch]
    np.save(tmp_path / "x.npy", x)
    with OnnxRuntimeRunner(bundle.onnx, providers="cpu", threads=threads) as runner:
        wanted = runner({"input": x})["logits"]
    found = by_tool(tool, digits / name, tmp_path / "x.npy", tmp_path / "y.npy", "--threads", threads)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("groups", [(0, 0, 0), (0, 1, 0), (2, 1, 0)])
def test_the_parts_compute_the_bits_of_python(tool, digits, images, tmp_path, groups):
    """Given the parts on one group of cores or on several -> the same bits each time."""
    bundle = Bundle.open(digits / "split")
    np.save(tmp_path / "x.npy", images[:1])
    wanted = by_parts(bundle, {"input": images[:1]})["logits"]
    devices = ("--devices", ",".join(map(str, groups[: bundle.splits[0].devices])), "--threads", 1)
    found = by_tool(tool, digits / "split", tmp_path / "x.npy", tmp_path / "y.npy", *devices)
    assert found.tobytes() == wanted.tobytes()


def test_parts_of_a_free_batch(tool, images, tmp_path):
    """Given a split of a network whose batch is open, two devices -> the bits of Python at batch 1 and 5."""
    folder = tmp_path / "bundle"
    checkpoint = ("--checkpoint", str(ASSETS / "parnet_digits.pth"), "--dynamic-batch", "1:2:8")
    assert main(["export", "parnet_digits", *checkpoint, "-o", str(folder), "--quiet"]) == 0
    assert main(["split", str(folder), "--devices", "2", "--force", "--quiet"]) == 0
    for batch in (1, 5):
        np.save(tmp_path / "x.npy", images[:batch])
        wanted = by_parts(Bundle.open(folder), {"input": images[:batch]})["logits"]
        found = by_tool(tool, folder, tmp_path / "x.npy", tmp_path / "y.npy", "--devices", "0,1", "--threads", 1)
        assert found.shape == wanted.shape == (batch, 10) and found.tobytes() == wanted.tobytes()


DTYPES = ("bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64")


def test_every_dtype_that_numpy_has(tool, tmp_path):
    """Given a network of one input of each dtype, with a free axis -> each comes back turned, byte for byte."""
    tensors = [(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name))) for name in DTYPES]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Transpose", [f"x_{name}"], [f"y_{name}"], perm=[1, 0]) for name in DTYPES],
        "turned",
        [onnx.helper.make_tensor_value_info(f"x_{name}", kind, ["n", 3]) for name, kind in tensors],
        [onnx.helper.make_tensor_value_info(f"y_{name}", kind, [3, "n"]) for name, kind in tensors],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    with write_bundle(tmp_path / "bundle") as draft:
        onnx.save(model, draft.path("model.onnx"))
        draft.manifest.name = "turned"
        draft.manifest.inputs = tuple(TensorSpec(f"x_{name}", name, ("n", 3)) for name in DTYPES)
        draft.manifest.outputs = tuple(TensorSpec(f"y_{name}", name, (3, "n")) for name in DTYPES)
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(scale=50, size=(4, 3)).astype(name) for name in DTYPES}
    words = []
    for name, array in arrays.items():
        np.save(tmp_path / f"x_{name}.npy", array)
        words += ["--input", f"x_{name}={tmp_path}/x_{name}.npy", "--output", f"y_{name}={tmp_path}/y_{name}.npy"]
    done = tool(tmp_path / "bundle", *words)
    assert (done.returncode, done.stderr) == (0, "")
    for name, array in arrays.items():
        found = np.load(tmp_path / f"y_{name}.npy")
        assert found.dtype == array.dtype and found.tobytes() == array.T.tobytes()


@pytest.mark.slow
def test_vanillanet_5(tool, tmp_path):
    """Given vanillanet_5 at 224×224 -> the bits of Python."""
    folder = tmp_path / "bundle"
    assert main(["export", "vanillanet_5", "--random-init", "0", "-o", str(folder), "--quiet"]) == 0
    x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    bundle = Bundle.open(folder)
    with OnnxRuntimeRunner(bundle.onnx, providers="cpu", threads=1) as runner:
        (wanted,) = runner({bundle.inputs[0].name: x}).values()
    found = by_tool(tool, folder, tmp_path / "x.npy", tmp_path / "y.npy", "--threads", 1)
    assert found.tobytes() == wanted.tobytes()


def run_tests(program, digits, **environment):
    environment = os.environ | {"PLAINCONV_TEST_BUNDLES": str(digits)} | environment
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "0 failed" in done.stdout and "test cases: 0" not in done.stdout


@pytest.mark.parametrize("name", ["plainconv-tests", "plainconv-tests-tensorrt", "plainconv-tests-rtx"])
def test_the_tests_of_the_library_pass(program, digits, name):
    """Given the digits bundles -> the tests in C++ pass."""
    run_tests(program(name), digits)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plainconv-tests-tensorrt", "plainconv-tests-rtx"])
def test_ten_thousand_calls(program, digits, name):
    """Given 8 threads, engines whole and in parts, of open and fixed shapes -> each result of 10,000 calls is right."""
    run_tests(program(name), digits, PLAINCONV_TEST_CALLS="10000")


def test_bench(tool, digits):
    done = tool(digits / "split", "--bench", "--calls", 20, "--threads", 1)
    assert done.returncode == 0 and "p50" in done.stdout and "p99" in done.stdout and "20 calls" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no bundle is given"),
        (("x", "y"), "a second bundle 'y' is given"),
        (("x", "--loud"), "unknown option '--loud'"),
        (("x", "--calls", "0"), "--calls is '0', wanted a whole number from 1 on"),
        (("x", "--threads"), "--threads is given without a value"),
        (("no/such/folder",), "no/such/folder: not a bundle (no such folder)"),
        (("x", "--output", "y.npy"), "--output is given without an input"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(tool, arguments, message):
    done = tool(*arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


def test_a_wrong_array_is_one_line_and_nothing_is_written(tool, digits, images, tmp_path):
    cases = [
        (images[:1].astype(np.float64), "input input is float64, wanted float32"),
        (images[:1, :, :9], "input input has shape [1, 1, 9, 32], wanted [batch, 1, 32, 32]"),
        (np.asfortranarray(images[:2]), "Fortran order, wanted C order"),
        (images[:1].astype(">f4"), "its dtype is '>f4'"),
    ]
    for array, message in cases:
        np.save(tmp_path / "x.npy", array)
        done = tool(digits / "whole", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_outputs_are_what_numpy_writes(tool, digits, images, tmp_path):
    """Given an output file -> byte for byte that of numpy.save."""
    np.save(tmp_path / "x.npy", images[:3])
    y = by_tool(tool, digits / "whole", tmp_path / "x.npy", tmp_path / "y.npy")
    np.save(tmp_path / "again.npy", y)
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
