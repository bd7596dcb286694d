"""How large the values that an int8 or fp8 graph rounds are: ranges, from images.

minmax keeps the largest value seen. percentile clips the rarest, entropy clips where the rounded histogram is closest
to the true one (Kullback-Leibler divergence); both by ONNX Runtime's calibrators.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import ExportError, SourceError, one_line
from ..onnx_file.ir_graph import save
from ..onnx_file.layer_types import WEIGHTED
from ..parity.accuracy import arrays_of_npz, check_images
from ..quiet import quiet
from .quantize import quantizable
from .run import batches, peaks_of

QUICK = ("minmax", "percentile")
"""What "auto" tries: entropy takes seconds a layer."""
METHODS = ("auto", *QUICK, "entropy")
PERCENTILE = 99.99
BINS = 2048
LEVELS = 128
"""Magnitudes that int8 tells apart."""
MAX_IMAGES = 512


@dataclass(frozen=True)
class Calibration:
    """Images [n, …] as the network takes them, and the method, of `METHODS`; "auto" is the one that errs least."""

    images: np.ndarray
    method: str = "auto"


def read_images(path: Path, image_shape: tuple[int, ...]) -> np.ndarray:
    """The array "images", float32, of the .npz file at `path`; `image_shape` is C, H, W.

    Raises:
        SourceError: the file is missing or no .npz, lacks the array, or it is empty, of another shape, not finite or of
            integers: bytes of pixels, which nothing after this would tell from the network's own inputs.

    """
    images = arrays_of_npz(path, ("images",))["images"]
    check_images(path, images, image_shape)
    if images.dtype.kind != "f":
        raise SourceError(
            f"{path.name}: images are {images.dtype}, want floats, preprocessed as the network takes them; give them "
            ".astype('float32') if they are"
        )
    return images.astype(np.float32)


def ranges_of(model: ir.Model, images: np.ndarray, method: str, batch: int) -> dict[str, float]:
    """For each value that a node to be quantized reads, the largest magnitude to keep.

    Args:
        model: the float32 graph, of one input.
        images: [n, …], as the network takes them; the first `MAX_IMAGES` are used.
        method: of `METHODS` but "auto".
        batch: how many images a run takes.

    Raises:
        ExportError: ONNX Runtime's calibrator fails.

    """
    images = images[:MAX_IMAGES]
    wanted = {str(node.inputs[0].name) for node in model.graph if quantizable(node) and node.inputs[0] is not None}
    found = peaks_of(model, (images,), batch) if method == "minmax" else _calibrated(model, images, method, batch)
    return {name: found[name] for name in wanted}


def _calibrated(model: ir.Model, images: np.ndarray, method: str, batch: int) -> Mapping[str, float]:
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    options: dict[str, Any] = {"symmetric": True, "num_bins": BINS}
    options |= {"num_quantized_bins": LEVELS} if method == "entropy" else {"percentile": PERCENTILE}
    how = {"entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}[method]
    name = str(model.graph.inputs[0].name)
    with tempfile.TemporaryDirectory() as folder, quiet("root"), contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        save(model, path)
        try:
            calibrator = create_calibrator(
                path, list(WEIGHTED), str(path.with_name("augmented.onnx")), how, extra_options=options
            )
            for (x,) in batches((images,), batch):  # one at a time: it holds every value of all it is given
                calibrator.collect_data(_Reader([{name: x}]))
            data = calibrator.compute_data()
        except Exception as error:  # NumPy's, ONNX Runtime's and its own, without a common base
            raise ExportError(f"calibration by {method} failed ({one_line(error)}); try another method") from error
    return {name: float(np.max(np.abs(found.range_value))) for name, found in data.items()}


class _Reader:
    """ONNX Runtime's CalibrationDataReader."""

    def __init__(self, feeds: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self._feeds, None)
