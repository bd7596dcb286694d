"""What Triton Inference Server is told of one model: our record of it, and its `config.pbtxt`.

The one file that imports tritonclient, whose protobuf classes are the grammar of `config.pbtxt`.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plainconv.exporter.bundle import TensorSpec
from plainconv.exporter.errors import EngineError, first_line

CONFIG = "config.pbtxt"
VERSION = "1"
"""The folder of a model's files: its first version, and its only one."""
MARK = "plainconv.manifest_sha256"
"""The parameter by which a model folder is known as ours; its value is the bundle's identity."""
OWNER = "plainconv.model"
"""The parameter that names the model which a folder was written for: itself, or the ensemble that it is a part of."""
PLATFORMS = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx", "ensemble": "ensemble"}
DEFAULT_FILES = {"tensorrt": "model.plan", "onnxruntime": "model.onnx"}
TYPES = {
    "bool": "TYPE_BOOL",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
"""Triton's words for the types of a bundle."""


@dataclass(frozen=True)
class Step:
    """A model in an ensemble: for each of its inputs, and each output that is used, the ensemble's tensor."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Warmup:
    """A request of zeros before a model counts as ready: so many of these shapes, which have no batch axis of it."""

    name: str
    batch: int
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TritonModel:
    """One model folder.

    `runtime` is "tensorrt", "onnxruntime" or "ensemble". `files` maps what lies in its version folder to the bundle's
    names. `max_batch` is 0 where the model does not batch; else axis 0 of every tensor is the batch, and Triton is told
    the others. `gpus` are those it runs on: none is the CPU, an empty tuple every GPU of the server. `delay_us` is how
    long a request may wait for others to batch with; None: no dynamic batching. `profiles` counts the optimization
    profiles of an engine.
    """

    name: str
    runtime: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    parameters: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[int, ...] | None = None
    instances: int = 1
    delay_us: int | None = None
    profiles: int = 0
    warmups: tuple[Warmup, ...] = ()
    steps: tuple[Step, ...] = ()


def text_of_model(model: TritonModel) -> str:
    """Its `config.pbtxt`. Raises EngineError where tritonclient is not installed."""
    config = _message()
    config.name = model.name
    config.platform = PLATFORMS[model.runtime]
    config.max_batch_size = model.max_batch
    for specs, tensors in ((model.inputs, config.input), (model.outputs, config.output)):
        for spec in specs:
            _fill_tensor(tensors.add(), spec, model)
    for key, value in model.parameters.items():
        config.parameters[key].string_value = value
    if model.runtime == "ensemble":
        for step in model.steps:
            config.ensemble_scheduling.step.add(
                model_name=step.model, model_version=-1, input_map=step.inputs, output_map=step.outputs
            )
    else:
        config.backend = model.runtime
        _fill_instances(config.instance_group.add(), model)
        if model.delay_us is not None:
            config.dynamic_batching.SetInParent()
            config.dynamic_batching.max_queue_delay_microseconds = model.delay_us
        for warmup in model.warmups:
            _fill_warmup(config.model_warmup.add(), warmup, model)
    return str(_text_format().MessageToString(config))


def read_config(path: Path) -> Any:
    """A `config.pbtxt` as tritonclient's ModelConfig.

    Raises EngineError where it cannot be read, is none, or tritonclient is not installed.
    """
    try:
        return _text_format().Parse(path.read_text(encoding="utf-8"), _message())
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror}); write the model again with --force") from None
    except (ValueError, _text_format().ParseError) as error:
        raise EngineError(f"{path} is no model configuration ({first_line(error)}); write it again") from None


def type_name(number: int) -> str:
    """Triton's word for the number of a data type."""
    return str(_pb2().DataType.Name(number))


def kind_name(number: int) -> str:
    """Triton's word for where an instance group runs."""
    return str(_pb2().ModelInstanceGroup.Kind.Name(number))


def dims_of(spec: TensorSpec, max_batch: int) -> list[int]:
    """The axes that Triton is told of: without the batch, an open one -1. Empty for one number of each image."""
    shape = spec.shape[1:] if max_batch else spec.shape
    return [axis if isinstance(axis, int) else -1 for axis in shape]


def _fill_tensor(tensor: Any, spec: TensorSpec, model: TritonModel) -> None:
    """An axis-less tensor, which Triton has not, is one of shape [1] outside; an ensemble passes it on as that."""
    dims = dims_of(spec, model.max_batch)
    tensor.name = spec.name
    tensor.data_type = _pb2().DataType.Value(TYPES[spec.dtype])
    tensor.dims.extend(dims or [1])
    if not dims and model.runtime != "ensemble":
        tensor.reshape.SetInParent()


def _fill_instances(group: Any, model: TritonModel) -> None:
    group.count = model.instances
    group.kind = _pb2().ModelInstanceGroup.KIND_CPU if model.gpus is None else _pb2().ModelInstanceGroup.KIND_GPU
    group.gpus.extend(model.gpus or ())
    if model.profiles > 1:
        group.profile.extend(map(str, range(model.profiles)))


def _fill_warmup(sample: Any, warmup: Warmup, model: TritonModel) -> None:
    sample.name = warmup.name
    sample.batch_size = warmup.batch
    for spec in model.inputs:
        tensor = sample.inputs[spec.name]
        tensor.data_type = _pb2().DataType.Value(TYPES[spec.dtype])
        tensor.dims.extend(warmup.shapes[spec.name])
        tensor.zero_data = True


def _message() -> Any:
    return _pb2().ModelConfig()


def _pb2() -> Any:
    return _imported("tritonclient.grpc.model_config_pb2")


def _text_format() -> Any:
    return _imported("google.protobuf.text_format")


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: it is there without its gRPC
        raise EngineError(
            f"a Triton model repository needs tritonclient with gRPC ({first_line(error)}); "
            "pip install 'plainconv[triton]'"
        ) from None
