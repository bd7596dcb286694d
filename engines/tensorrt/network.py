"""An ONNX file as TensorRT's network, and what the parsed network says of its inputs and of each layer's type.

No runtime is imported here: each function takes its module, or what the module has made.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from plainconv.exporter.errors import EngineError

from ..options import Profile, profile_problems
from .builder_log import LogLine, log_of, one_line

NAMES = {
    "FP4": "fp4",
    "INT4": "int4",
    "FP8": "fp8",
    "INT8": "int8",
    "HALF": "fp16",
    "BF16": "bf16",
    "FLOAT": "fp32",
}
"""The precisions of tensors by TensorRT's names of them, the narrowest first."""
_COMPUTES = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


def parse(trt: ModuleType, builder: Any, onnx: Path, lines: list[LogLine]) -> Any:
    """The network in the file, strongly typed: every tensor has the precision that the graph gives it.

    `lines` is where the log of this goes. Raises EngineError with the parser's first complaint.
    """
    network = empty_network(trt, builder)
    parser = trt.OnnxParser(network, log_of(trt))
    parsed = parser.parse_from_file(str(onnx))
    errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
    if not errors and (not parsed or network.num_outputs == 0):
        errors = ["it holds no graph"]
    if errors:
        weights = [one_line(line.text) for line in lines if line.text.startswith("WeightsContext")]
        of_node = errors[0].startswith("node ")
        cause = re.sub(r"^\S+: ", "", weights[0]) if weights else errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        remedy = "give --engine none to go without an engine" if of_node else "export it again"
        raise EngineError(f"{onnx.name}: {trt.__name__} cannot parse it: {cause}{more}; {remedy}")
    return network


def empty_network(trt: ModuleType, builder: Any) -> Any:
    """A strongly typed network without layers."""
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def add_profiles(builder: Any, config: Any, network: Any, profiles: tuple[Profile, ...], file: str) -> None:
    """Give the build its optimization profiles. Raises EngineError unless they suit the network's inputs."""
    inputs = (network.get_input(i) for i in range(network.num_inputs))
    problems = profile_problems({tensor.name: tuple(tensor.shape) for tensor in inputs}, profiles)
    if problems:
        raise EngineError(f"{file}: {problems[0]}{f' (and {len(problems) - 1} more)' if problems[1:] else ''}")
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for name, covered in ranges.items():
            profile.set_shape(name, covered.min, covered.opt, covered.max)
        config.add_optimization_profile(profile)


def precisions_of(network: Any) -> tuple[str, ...]:
    """The floating and quantized types that its layers give out, the narrowest first; "fp32" where there is none."""
    types = {layer.get_output(k).dtype.name for layer in _layers(network) for k in range(layer.num_outputs)}
    return tuple(name for dtype, name in NAMES.items() if dtype in types) or ("fp32",)


def types_of_layers(network: Any) -> dict[str, str]:
    """For each convolution and matrix product, by the name of its ONNX node, the type that it computes in.

    That is the type of its first operand; where that comes out of a DequantizeLinear, what goes into that, provided
    that the other operand is quantized alike: one of float weights computes in float.
    """
    producers = {layer.get_output(k).name: layer for layer in _layers(network) for k in range(layer.num_outputs)}
    return {node_of(layer): _type_of(layer, producers) for layer in _layers(network) if layer.type.name in _COMPUTES}


def node_of(layer: Any) -> str:
    """The name of the ONNX node that a layer comes from; the layer's own, which is unique, where it has none."""
    named = _ONNX_NODE.search(layer.metadata)
    return named[1] if named else str(layer.name)


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(i) for i in range(network.num_layers))


def _type_of(layer: Any, producers: Mapping[str, Any]) -> str:
    """What a convolution or a matrix product computes in."""
    operands = [layer.get_input(k) for k in range(min(layer.num_inputs, 2)) if layer.get_input(k) is not None]
    own = operands[0].dtype.name
    quantized = {_quantized_type(operand, producers) for operand in operands}
    found = next(iter(quantized)) if len(operands) == 2 and len(quantized) == 1 else None
    return NAMES.get(found or own, (found or own).lower())


def _quantized_type(tensor: Any, producers: Mapping[str, Any]) -> str | None:
    """The type of what a DequantizeLinear makes this tensor of, reshapes and transposes aside; None without one."""
    producer = producers.get(tensor.name)
    while producer is not None and producer.type.name == "SHUFFLE":
        producer = producers.get(producer.get_input(0).name)
    if producer is None or producer.type.name != "DEQUANTIZE":
        return None
    return str(producer.get_input(0).dtype.name)


def _parser_error(error: Any) -> str:
    """One error of the ONNX parser: node, operator, and its words without the C++ of the assertion."""
    words = str(error.desc())
    quoted = re.search(r'"([^"]+)"', words)
    if quoted:
        words = quoted[1]
    elif words == "false":
        words = "this operator is not supported"
    else:
        words = re.sub(r"^Assertion failed: .*: ", "", words).rstrip(".")
    operator = error.node_operator()
    return one_line(f"node {error.node_name()} ({operator}): {words}" if operator else words)
