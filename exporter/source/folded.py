"""Preprocessing of pixels as the first layer of a network, which then takes bytes, as a decoder gives them.

    y = net(s·(v − m)),  m = mean / scale,  s = scale / std,  v uint8 [N, H, W, C]

From here on it is a layer like others: kernel algebra merges s into the first convolution, and m into its bias where
that has no padding; with padding the subtraction stays a node before it, and zeros around are exact. The channels of
BGR are turned by the same layer.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..bundle import Preprocessing
from ..errors import SourceError
from .network import Network


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
    if network.given is not None:
        raise SourceError(
            f"{network.name} is an ONNX file, whose graph is the reference; {remedy}, or export the network"
        )
    if wanted is None:
        raise SourceError(f"{network.name} has no preprocessing to fold; give --preprocessing, or {remedy}")
    example = network.example
    if len(network.inputs) != 1 or example.dim() != 4 or not example.is_floating_point():
        raise SourceError(
            f"{network.name} takes {len(network.inputs)} inputs, wanted one of floating-point images; {remedy}"
        )
    box = wanted.letterbox
    if box is not None and any(value != round(value) for value in box.value):
        raise SourceError(f"the letterbox has the value {list(box.value)}, which no byte is; {remedy}")
    channels = 1 if wanted.color == "gray" else 3
    color = "rgb" if wanted.color == "bgr" else wanted.color
    turned = None if box is None else replace(box, value=box.value[::-1] if wanted.color == "bgr" else box.value)
    shape = example.shape if wanted.layout == "nhwc" else [example.shape[axis] for axis in (0, 2, 3, 1)]
    generator = torch.Generator().manual_seed(0)
    bytes_ = torch.randint(0, 256, tuple(shape), dtype=torch.uint8, generator=generator)
    network.module = Folded(network.module, wanted, example.dtype).eval()
    network.inputs = {next(iter(network.inputs)): bytes_}
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
