"""Conformance vectors: what the published implementations of the networks compute, as data.

NAME.json holds the published state dict's keys and shapes, the network's options and the input's shape; NAME.npz holds
`logits`, float64 [2, 1000], of the training form in eval mode, run in float64 on `image(input)` with `weight(key,
shape)` for every key: float32 weights, widened for the run.

NumPy alone is needed, so that any test may load this file by its location.
"""

import json
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from places import ASSETS

FOLDER = ASSETS / "vectors"
PARTS = (  # of detectors, and whole ones: many outputs, see `load_parts`
    "mask_rcnn_narrow",
    "mask_rcnn_vanillanet_13",
    "nms",
    "retinanet_narrow",
    "retinanet_vanillanet_13",
    "roi_align",
    "yolor_blocks",
)
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.json") if path.stem not in PARTS))

_NETWORKS = {  # where the vector's name is not the network's
    "parnet_l_relu": "parnet_l",
    "parnet_m_relu": "parnet_m",
    "parnet_s_96_silu": "parnet_s_96",
    "parnet_s_released_relu": "parnet_s",
    "parnet_xl_silu": "parnet_xl",
    "resnet50": "resnet_50",
    "vanillanet_5_slope0.5": "vanillanet_5",
}
_QUICK = {
    "vanillanet_5",
    "vanillanet_5_slope0.5",
    "parnet_s_96_silu",
    "repvgg_a0",
}


@dataclass(frozen=True)
class Vector:
    """One conformance vector: `network` with `options`, given `state` and `image`, gives `logits`."""

    name: str
    network: str
    options: dict[str, Any]
    slope: float | None
    shapes: dict[str, tuple[int, ...]]
    image: NDArray[np.float32]
    logits: NDArray[np.float64]

    @property
    def quick(self) -> bool:
        """Whether the network is small enough for every test run; the others are marked slow."""
        return self.name in _QUICK

    def state(self) -> dict[str, NDArray[Any]]:
        """Draw every weight of the published state dict, float32, `num_batches_tracked` int64."""
        return {key: weight(key, shape) for key, shape in self.shapes.items()}


def load(name: str) -> Vector:
    """Read the vector called `name`, one of `NAMES`."""
    given = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as arrays:
        logits = arrays["logits"]
    options = dict(given["options"])
    slope = options.pop("slope", None)
    shapes = {key: tuple(shape) for key, shape in given["state_dict"].items()}
    return Vector(name, _NETWORKS.get(name, name), options, slope, shapes, image(tuple(given["input"])), logits)


@dataclass(frozen=True)
class Parts:
    """A vector of many outputs, each flattened and thinned: `outputs[name]` is `array.ravel()[:: every[name]]`."""

    options: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    image: NDArray[np.float32] | None
    outputs: dict[str, NDArray[Any]]
    every: dict[str, int]

    def state(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Draw the weights whose keys begin with `prefix`, under what is left of their keys."""
        return {
            key.removeprefix(prefix): weight(key, shape) for key, shape in self.shapes.items() if key.startswith(prefix)
        }

    def error(self, name: str, found: NDArray[Any]) -> float:
        """The largest difference of an output, relative to its largest value."""
        wanted = self.outputs[name]
        thin = found.ravel()[:: self.every[name]]
        assert thin.shape == wanted.ravel().shape, (name, found.shape)
        return float(np.abs(thin - wanted.ravel()).max() / np.abs(wanted).max())


def load_parts(name: str) -> Parts:
    """Read the vector called `name`, one of `PARTS`."""
    given = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as arrays:
        outputs = {key: arrays[key] for key in arrays.files}
    shapes = {key: tuple(shape) for key, shape in given.get("state_dict", {}).items()}
    drawn = image(tuple(given["input"])) if isinstance(given.get("input"), list) else None
    every = {key: output["every"] for key, output in given["outputs"].items()}
    return Parts(given["options"], shapes, drawn, outputs, every)


def weight(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Draw a parameter from its name and shape alone, in float64, and round it once: the same on any machine.

    running_mean N(0, ½) · running_var U(½, 2) · a vector's weight U(½, 3⁄2) · a vector's bias N(0, ½) ·
    anything else N(0, 1 / √fan_in), fan_in the product of all axes but the first.
    """
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith("running_var"):
        drawn = draw.uniform(0.5, 2.0, shape)
    elif len(shape) == 1 and name.endswith("weight"):
        drawn = draw.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        drawn = draw.standard_normal(shape) * 0.5
    else:
        drawn = draw.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    return np.asarray(drawn, np.float32)


def image(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw the input of every vector: N(0, 1), seed 0, float64 rounded to float32."""
    return np.random.Generator(np.random.PCG64(0)).standard_normal(shape).astype(np.float32)
