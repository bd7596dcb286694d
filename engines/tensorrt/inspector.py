"""What an engine says of its own layers, held against what the network asked for."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from plainconv.exporter.errors import EngineError

_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_TYPES = (
    ("fp4", r"fp4|e2m1"),
    ("fp8", r"fp8|e4m3"),
    ("int4", r"int4"),
    ("int8", r"int8"),
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|float16|half"),
    ("fp32", r"fp32|float32|float|tf32"),
)
"""Precisions, and how an engine spells them within the format of a tensor; the first that is found counts."""
_WIDTH = {"fp4": 4, "int4": 4, "fp8": 8, "int8": 8, "bf16": 16, "fp16": 16, "fp32": 32}


def check_inspected(layers: Mapping[str, str], information: str) -> None:
    """Raise EngineError where the engine computes a layer in a wider type than the network gives it.

    `layers` is the type of each convolution and matrix product by ONNX node, `information` what the engine inspector
    prints as JSON; empty where there is none.
    """
    found = disagreements(layers, information)
    if found:
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        raise EngineError(f"{found[0]}{more}; keep that layer in the wider type, or build for another GPU")


def disagreements(layers: Mapping[str, str], information: str) -> list[str]:
    """For each layer of `layers` that the engine computes in a wider type: found and wanted, in one line.

    An engine's layer counts where it stands for exactly one of `layers` and says the types of what it reads: the
    narrowest of these is what it computes in. One that fuses several, or a layer with the QuantizeLinear before it,
    reads other types than it computes in, and says nothing.
    """
    found = []
    for layer in _engine_layers(information):
        nodes = _NODE.findall(str(layer.get("Metadata", "")))
        named = [node for node in nodes if node in layers]
        inputs = layer.get("Inputs")
        types = [kind for kind in map(_type_of, inputs if isinstance(inputs, list) else ()) if kind is not None]
        if len(named) != 1 or nodes[0] != named[0] or not types:
            continue
        computes, wanted = min(types, key=_WIDTH.__getitem__), layers[named[0]]
        if _WIDTH[computes] > _WIDTH.get(wanted, 32):
            found.append(f"the engine computes {named[0]} in {computes}, the graph wants {wanted}")
    return found


def _engine_layers(information: str) -> Iterator[Mapping[str, Any]]:
    """The layers in the inspector's JSON: objects; at a lower verbosity they are names alone."""
    try:
        held = json.loads(information or "{}")
    except ValueError:
        return
    layers = held.get("Layers") if isinstance(held, dict) else None
    yield from (layer for layer in (layers if isinstance(layers, list) else ()) if isinstance(layer, dict))


def _type_of(tensor: Any) -> str | None:
    """The precision of a tensor that the inspector describes; None where it does not say one."""
    said = str(tensor.get("Format/Datatype", tensor.get("Datatype", ""))) if isinstance(tensor, dict) else ""
    return next((kind for kind, spelled in _TYPES if re.search(spelled, said.lower())), None)
