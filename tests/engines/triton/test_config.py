"""A model's `config.pbtxt`."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from plainconv.engines.triton import config as triton_config
from plainconv.engines.triton.config import (
    Step,
    TritonModel,
    Warmup,
    read_config,
    text_of_model,
    type_name,
)
from plainconv.exporter.bundle import DTYPES, TensorSpec
from plainconv.exporter.errors import EngineError

X = TensorSpec("x", "float32", ("N", 3, "H", "W"))
Y = TensorSpec("y", "int64", ("N",))


def model(**fields):
    return TritonModel(
        **{"name": "net", "runtime": "tensorrt", "inputs": (X,), "outputs": (Y,), "max_batch": 8, "parameters": {}}
        | fields
    )


@pytest.fixture
def config(tmp_path):
    """What is read back of what is written."""

    def written_and_read(**fields):
        path = tmp_path / "config.pbtxt"
        path.write_text(text_of_model(model(**fields)))
        return read_config(path)

    return written_and_read


def test_a_model_that_batches(config):
    """Given a batch -> it is no axis of a tensor; one number an image is a reshaped axis of 1."""
    c = config(parameters={"plainconv.precision": "fp16"}, gpus=(0, 2), instances=2, delay_us=100)
    assert (c.name, c.platform, c.backend, c.max_batch_size) == ("net", "tensorrt_plan", "tensorrt", 8)
    assert (c.input[0].name, list(c.input[0].dims), c.input[0].HasField("reshape")) == ("x", [3, -1, -1], False)
    assert (list(c.output[0].dims), list(c.output[0].reshape.shape), c.output[0].HasField("reshape")) == ([1], [], True)
    (group,) = c.instance_group
    assert (group.kind, list(group.gpus), group.count, list(group.profile)) == (group.KIND_GPU, [0, 2], 2, [])
    assert c.dynamic_batching.max_queue_delay_microseconds == 100
    assert {key: value.string_value for key, value in c.parameters.items()} == {"plainconv.precision": "fp16"}
    assert not c.HasField("version_policy") and not c.model_warmup


def test_a_model_that_does_not_batch(config):
    """Given no batch -> every axis is told, an open one as -1."""
    c = config(max_batch=0, runtime="onnxruntime", gpus=None)
    assert (c.platform, c.backend, c.max_batch_size) == ("onnxruntime_onnx", "onnxruntime", 0)
    assert (list(c.input[0].dims), list(c.output[0].dims)) == ([-1, 3, -1, -1], [-1])
    assert c.instance_group[0].kind == c.instance_group[0].KIND_CPU
    assert not c.HasField("dynamic_batching") and not c.output[0].HasField("reshape")


def test_every_gpu_and_every_profile(config):
    """Given no GPU by number -> all of the server; several optimization profiles -> by number, one -> none."""
    (group,) = config(gpus=(), profiles=3).instance_group
    assert (group.kind, list(group.gpus), list(group.profile)) == (group.KIND_GPU, [], ["0", "1", "2"])
    assert not config(gpus=(), profiles=1).instance_group[0].profile


def test_a_delay_of_nothing_is_still_dynamic_batching(config):
    assert config(delay_us=0).HasField("dynamic_batching")


def test_an_ensemble(config):
    """Given steps -> their maps, by names that any ONNX value may have; no instances of its own."""
    step = Step("net.a", {"x": "x"}, {'odd "\\\n/ä:0': "y"})
    c = config(runtime="ensemble", steps=(step,))
    (read,) = c.ensemble_scheduling.step
    assert (c.platform, c.backend, read.model_name, read.model_version) == ("ensemble", "", "net.a", -1)
    assert (dict(read.input_map), dict(read.output_map)) == (step.inputs, step.outputs)
    assert not c.instance_group and not c.HasField("dynamic_batching")
    assert (list(c.output[0].dims), c.output[0].HasField("reshape")) == ([1], False)


def test_a_warmup(config):
    """Given a warmup -> zeros of its shapes and of the inputs' types."""
    (sample,) = config(warmups=(Warmup("first", 4, {"x": (3, 8, 8)}),)).model_warmup
    assert (sample.name, sample.batch_size) == ("first", 4)
    data = sample.inputs["x"]
    assert (type_name(data.data_type), list(data.dims), data.zero_data) == ("TYPE_FP32", [3, 8, 8], True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_a_bundle(config, dtype):
    bits = {"bool": "BOOL", "bfloat16": "BF16"}
    wanted = bits.get(dtype) or dtype.upper().replace("FLOAT", "FP")
    assert type_name(config(inputs=(TensorSpec("x", dtype, ("N", 1)),)).input[0].data_type) == f"TYPE_{wanted}"


@given(st.text(min_size=1, max_size=20), st.lists(st.integers(1, 2**40) | st.just("S"), max_size=5), st.integers(0, 9))
@settings(derandomize=True)
def test_any_tensor(tmp_path_factory, name, shape, max_batch):
    """Given any name and shape -> read back as they were written."""
    path = tmp_path_factory.getbasetemp() / "any.pbtxt"
    spec = TensorSpec(name, "float32", ("N", *shape))
    path.write_text(text_of_model(model(inputs=(spec,), max_batch=max_batch)), encoding="utf-8")
    (tensor,) = read_config(path).input
    dims = [-1 if axis == "S" else axis for axis in shape]
    assert (tensor.name, list(tensor.dims)) == (name, (dims if max_batch else [-1, *dims]) or [1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_batch: 3", 'is no model configuration .*"max_batch"'),
        ("name: {", "is no model configuration"),
        (None, "cannot be read"),
    ],
)
def test_no_configuration(tmp_path, text, said):
    if text:
        (tmp_path / "config.pbtxt").write_text(text)
    with pytest.raises(EngineError, match=said) as caught:
        read_config(tmp_path / "config.pbtxt")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "config.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(EngineError, match="is no model configuration"):
        read_config(tmp_path / "config.pbtxt")


@pytest.mark.parametrize("missing", ["tritonclient", "grpc"])
def test_without_tritonclient(missing):
    """Given no tritonclient, or one without gRPC -> one line that says what to install."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from plainconv.engines.triton.config import read_config, _message\n"
        "from plainconv.exporter.errors import EngineError\n"
        "try: _message()\n"
        "except EngineError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.endswith("pip install 'plainconv[triton]'\n") and done.stdout.count("\n") == 1


def test_it_is_imported_late_without_torch_and_without_a_warning():
    """Given the module -> tritonclient comes with the first configuration, and brings no torch."""
    code = (
        "import sys; from plainconv.engines.triton import config; early = 'tritonclient' in sys.modules;"
        "config._message(); print(early, 'tritonclient' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (done.stdout, done.stderr) == ("False True False\n", "")
    assert triton_config.MARK.startswith("plainconv.")
