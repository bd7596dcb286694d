"""How large the values that an int8 or fp8 graph rounds are: ranges, from images.

minmax keeps the largest value seen. percentile clips the rarest, entropy clips where the rounded histogram is closest
to the true one (Kullback-Leibler divergence); both by ONNX Runtime's calibrators.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import ExportError, SourceError, one_line
from ..onnx_file.ir_graph import save
from ..parity.accuracy import arrays_of_npz, check_images
from ..quiet import quiet
from .layout import ENGINE, Layout
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
    """Images [n, …] as the network takes them, by its inputs' names, and the method, of `METHODS`.

    "auto" is the one that errs least.
    """

    images: Mapping[str, np.ndarray]
    method: str = "auto"


def read_images(path: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images for each of `inputs` (arrays of the wanted shapes [·, …] and types), as in the .npz file at `path`.

    Each under its input's name; of a single input "images" will do.

    Raises:
        SourceError: the file is missing or no .npz, lacks an array, or one is empty, of another shape, not finite or of
            integers where the network takes floats: bytes of pixels, which nothing after this would tell from its own
            inputs.

    """
    keys = {name: name for name in inputs}
    if len(inputs) == 1 and not _has(path, next(iter(inputs))):
        keys = dict.fromkeys(inputs, "images")
    held = arrays_of_npz(path, tuple(keys.values()))
    found = {}
    for name, wanted in inputs.items():
        images = held[keys[name]]
        check_images(path, images, wanted.shape[1:], keys[name])
        if images.dtype.kind != "f" and wanted.dtype.kind == "f":
            raise SourceError(
                f"{path.name}: {keys[name]} are {images.dtype}, want floats, preprocessed as the network takes them; "
                "give them .astype('float32') if they are"
            )
        found[name] = images.astype(wanted.dtype)
    return found


def _has(path: Path, name: str) -> bool:
    try:
        return name in arrays_of_npz(path, None)
    except SourceError:  # said when it is read
        return False


def ranges_of(
    model: ir.Model,
    images: Mapping[str, np.ndarray],
    method: str,
    batch: int,
    whole: Set[str] = frozenset(),
    layout: Layout = ENGINE,
) -> dict[str, float]:
    """For each value that is to be stored rounded, the largest magnitude to keep.

    Args:
        model: the float32 graph.
        images: [n, …] for each input, as the network takes them; the first `MAX_IMAGES` are used.
        method: of `METHODS` but "auto".
        batch: how many images a run takes.
        whole: the inputs that have no batch axis.
        layout: which values these are.

    Raises:
        ExportError: ONNX Runtime's calibrator fails.

    """
    images = {name: x[:MAX_IMAGES] for name, x in images.items()}
    wanted = {str(x.name) for x in layout.plan(model.graph, frozenset()).values if x.const_value is None}
    feeds = batches(images, batch, whole)
    found = (
        peaks_of(model, images, batch, whole) if method == "minmax" else _calibrated(model, feeds, method, layout.ops)
    )
    return {name: found[name] for name in wanted}


def lows_of(
    model: ir.Model, images: Mapping[str, np.ndarray], batch: int, whole: Set[str] = frozenset()
) -> dict[str, float]:
    """The lowest number of each float value, on the same images."""
    images = {name: x[:MAX_IMAGES] for name, x in images.items()}
    return {name: -peak for name, peak in peaks_of(model, images, batch, whole, of="Neg").items()}


def _calibrated(
    model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], method: str, ops: Sequence[str]
) -> Mapping[str, float]:
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    options: dict[str, Any] = {"symmetric": True, "num_bins": BINS}
    options |= {"num_quantized_bins": LEVELS} if method == "entropy" else {"percentile": PERCENTILE}
    how = {"entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}[method]
    with tempfile.TemporaryDirectory() as folder, quiet("root"), contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        save(model, path)
        try:
            calibrator = create_calibrator(
                path, list(ops), str(path.with_name("augmented.onnx")), how, extra_options=options
            )
            for feed in feeds:  # one at a time: it holds every value of all it is given
                calibrator.collect_data(_Reader([feed]))
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
