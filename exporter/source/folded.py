"""Preprocessing of pixels as the first layer of a network, which then takes bytes, as a decoder gives them.

    y = net(s·(v − m)),  m = mean / scale,  s = scale / std,  v uint8 [N, H, W, C]

From here on it is a layer like others: kernel algebra merges s into the first convolution, and m into its bias where
that has no padding; with padding the subtraction stays a node before it, and zeros around are exact. The channels of
BGR are turned by the same layer. Of an ONNX file the layer is nodes before the graph's own.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import torch
from onnx import helper
from torch import Tensor, nn

from ..bundle import Preprocessing
from ..errors import SourceError
from ..names import NumberedNames
from ..onnx_module import module_from_onnx
from .network import Network

FOLDED = "folded"
"""What the network's preprocessing was is kept under this name, in its `provenance`."""


class Folded(nn.Module):
    """`network` of one image input, of images as bytes [N, H, W, C] in RGB or gray."""

    def __init__(self, network: nn.Module, wanted: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__()
        mean, std = (torch.tensor(each, dtype=torch.float64) for each in (wanted.mean, wanted.std))
        self.network = network
        self.is_bgr = wanted.color == "bgr"
        self.is_channels_first = wanted.layout == "nchw"
        self.shift = nn.Buffer((-mean / wanted.scale)[:, None, None].to(dtype))
        self.factor = nn.Buffer((wanted.scale / std)[:, None, None].to(dtype))

    def forward(self, image: Tensor) -> Tensor:
        """Bytes [N, H, W, C] → what `network` returns."""
        x = image.permute(0, 3, 1, 2).to(self.shift.dtype)
        x = x.flip(1) if self.is_bgr else x
        x = (x + self.shift) * self.factor
        return self.network(x if self.is_channels_first else x.permute(0, 2, 3, 1))  # type: ignore[no-any-return]


def fold_preprocessing(network: Network) -> None:
    """Put scale, mean, std, colour and layout into the network, which then takes bytes.

    Raises SourceError, in one line, where there is nothing to fold, or folding would not be exact.
    """
    wanted, remedy = network.preprocessing, "leave --fold-preprocessing out"
    if wanted is None:
        raise SourceError(f"{network.name} has no preprocessing to fold; give --preprocessing, or {remedy}")
    example = network.example
    if len(network.inputs) != 1 or example.dim() != 4 or not example.is_floating_point():
        raise SourceError(
            f"{network.name} takes {len(network.inputs)} inputs, wanted one of floating-point images; {remedy}"
        )
    box = wanted.letterbox
    if box is not None and any(value != round(value) for value in box.value):
        raise SourceError(
            f"the letterbox has the value {list(box.value)}, which no byte is; {remedy}, or give whole ones in a file"
        )
    if network.data:
        raise SourceError(f"--inputs has images as {network.name} takes them unfolded; give a shape alone, or {remedy}")
    channels = 1 if wanted.color == "gray" else 3
    color = "rgb" if wanted.color == "bgr" else wanted.color
    turned = None if box is None else replace(box, value=box.value[::-1] if wanted.color == "bgr" else box.value)
    shape = example.shape if wanted.layout == "nhwc" else [example.shape[axis] for axis in (0, 2, 3, 1)]
    generator = torch.Generator().manual_seed(0)
    bytes_ = torch.randint(0, 256, tuple(shape), dtype=torch.uint8, generator=generator)
    if network.given is None:
        network.module = Folded(network.module, wanted, example.dtype).eval()
    else:
        network.folded = _fold_into(network.given.graph, wanted)
        batches = getattr(network.module, "batches", {})
        network.module = module_from_onnx(network.given.graph, any_op=True)
        network.module.batches = batches
    network.inputs = {next(iter(network.inputs)): bytes_}
    network.provenance = {**network.provenance, FOLDED: wanted.as_json()}
    network.preprocessing = replace(
        wanted,
        color=color,
        letterbox=turned,
        scale=1.0,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        layout="nhwc",
        type="uint8",
    )


def _fold_into(graph: gs.Graph, wanted: Preprocessing) -> Callable[[np.ndarray], np.ndarray]:
    """Bytes → cast → channels moved and turned → + shift → · factor → what the graph's input was; the same in NumPy."""
    old = graph.inputs[0]
    names = NumberedNames({*graph.tensors(), *(node.name for node in graph.nodes)})
    is_first = wanted.layout == "nchw"
    channels = len(wanted.mean)
    sides = None if old.shape is None else [old.shape[axis] for axis in ((0, 2, 3, 1) if is_first else range(4))]
    given = gs.Variable(old.name, np.uint8, sides)
    old.name = names(f"{old.name}_normalized")
    dtype, spread = np.dtype(old.dtype), [channels if k == (1 if is_first else 3) else 1 for k in range(4)]
    mean, std = np.asarray(wanted.mean), np.asarray(wanted.std)
    shift, factor = (-mean / wanted.scale).astype(dtype), (wanted.scale / std).astype(dtype)
    steps: list[tuple[str, dict[str, object], list[np.ndarray]]] = []
    steps += [("Cast", {"to": helper.np_dtype_to_tensor_dtype(dtype)}, [])]
    steps += [("Transpose", {"perm": [0, 3, 1, 2]}, [])] if is_first else []
    if wanted.color == "bgr" and is_first:  # one affine map, which kernel algebra merges
        turned = np.diag(factor)[:, ::-1][..., None, None].copy()
        steps += [("Add", {}, [shift[::-1].reshape(spread)]), ("Conv", {"kernel_shape": [1, 1]}, [turned])]
    else:
        steps += [("Gather", {"axis": 3}, [np.arange(channels)[::-1].copy()])] if wanted.color == "bgr" else []
        steps += [("Add", {}, [shift.reshape(spread)]), ("Mul", {}, [factor.reshape(spread)])]
    nodes, value = [], given
    for i, (op, attributes, constants) in enumerate(steps):
        made = old if i + 1 == len(steps) else gs.Variable(names(f"{given.name}_{op.lower()}"), dtype)
        held = [gs.Constant(names(f"{made.name}_by"), constant) for constant in constants]
        nodes.append(gs.Node(op, names(f"fold_{op.lower()}"), attributes, [value, *held], [made]))
        value = made
    graph.inputs[0] = given
    graph.nodes[:] = [*nodes, *graph.nodes]

    def folded(image: np.ndarray) -> np.ndarray:
        x = image[..., ::-1] if wanted.color == "bgr" else image
        x = (x.astype(dtype) + shift) * factor
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if is_first else x)

    return folded
