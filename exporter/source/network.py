"""What a user asks for, and the network that it names, whichever kind of source it comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from ..bundle import Preprocessing, TensorSpec


@dataclass
class Given:
    """The graph of an ONNX file. Surgery takes it over: it is changed in place."""

    graph: gs.Graph
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class InputSpec:
    """What the user says of one input: a parameter of forward, or an input of an ONNX file, which has its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str | None = None


@dataclass(frozen=True)
class Request:
    """What the user asked for, beside SOURCE itself.

    `key` and `drop` say where in the checkpoint the weights are, and which keys of it are left out.
    `inputs` and the arrays of `inputs_file`, an .npz file, are what the network is called with, by name; `input_shape`
    is the shape of its only one. `name` is the bundle's, else it is called after its file or module.
    `usual_size` is the height and width to export at where neither `input_shape` nor an ONNX file says them.
    """

    checkpoint: Path | None = None
    ema: bool | None = None
    key: str | None = None
    drop: tuple[str, ...] = ()
    layout: Literal["auto", "training", "deploy"] = "auto"
    slope: float | None = None
    random_init: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    inputs: tuple[InputSpec, ...] = ()
    inputs_file: Path | None = None
    name: str | None = None
    usual_size: tuple[int, int] | None = None


@dataclass
class Network:
    """A network ready to export. Its owner may `del network.module` to free the weights.

    `module` takes the tensors of `inputs` by position. `data` are rows of the user's own for some of them, [n, …].
    `provenance` goes into the bundle's manifest: the source as written, its options, the checkpoint's file name, sha256
    and what was read from it. `weights_sha256` starts the manifest's hash chain: of the checkpoint or ONNX file where
    there is one, else of the parameters and buffers themselves. `given` is the graph of an ONNX file, and `folded` what
    was put before it: from its own first input to the file's.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    preprocessing: Preprocessing | None
    provenance: Mapping[str, Any]
    weights_sha256: str
    warnings: tuple[str, ...] = ()
    given: Given | None = None
    returns: tuple[str, ...] = ("logits",)
    classes: tuple[str, ...] = ()
    postprocess: str | None = None
    data: Mapping[str, np.ndarray] = field(default_factory=dict)
    folded: Callable[[np.ndarray], np.ndarray] = lambda image: image

    @property
    def example(self) -> Tensor:
        """The first input."""
        return next(iter(self.inputs.values()))

    @property
    def examples(self) -> tuple[Tensor, ...]:
        """What `module` is called with."""
        return tuple(self.inputs.values())

    @property
    def output_names(self) -> tuple[str, ...]:
        """Those of the file, where there is one; else of what the network returns."""
        return self.returns if self.given is None else tuple(t.name for t in self.given.graph.outputs)

    def output_specs(self) -> list[TensorSpec]:
        """Of what `module`, which is run once, returns for its inputs."""
        with torch.no_grad():
            returned = self.module(*self.examples)
        tensors = (returned,) if isinstance(returned, Tensor) else tuple(returned)
        return [
            TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in zip(self.output_names, tensors, strict=True)
        ]
