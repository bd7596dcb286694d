"""One network in every form that the field makes of it, for `bench_field.py`.

python tests/benchmarks/field_forms.py FORM SOURCE FOLDER   # makes one form in a process of its own

SOURCE is a network of the catalogue or timm:NAME, with random weights (seed 0) at its published size and batch 1.
"""

import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Form:
    """How a form is made from SOURCE into a folder, and how what is in the folder is run with so many threads.

    `package` is what it needs beside our own dependencies; `file` what it leaves. `own_weights` says that its weights
    are others, so that no error can be told.
    """

    make: Callable[[str, Path], None]
    run: Callable[[str, Path, int], Run]
    file: str = ""
    package: str = ""
    own_weights: bool = False

    def missing(self) -> str:
        """Why it cannot be made here; empty where it can."""
        found = not self.package or importlib.util.find_spec(self.package) is not None
        return "" if found else f"{self.package} is not installed"


def network(source: str, *, deploy: bool = False) -> tuple[nn.Module, Tensor]:
    """The training-time network (or the published deploy form) and an image."""
    from plainconv.exporter.source.randomize import randomized
    from plainconv.models import create, entries

    name = source.removeprefix("timm:")
    shape = (1, 3, 224, 224) if source.startswith("timm:") else entries()[name].input_shape
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if not source.startswith("timm:"):
        return randomized(create(name, deploy=deploy), 0, image).eval(), image
    import timm

    return randomized(timm.create_model(name, exportable=True).eval(), 0, image), image


def reference(source: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Two normal images, and what the network makes of them in float64."""
    module, image = network(source)
    rng = np.random.default_rng(1)
    images = [rng.standard_normal(image.shape).astype(np.float32) for _ in range(2)]
    module.double()
    with torch.no_grad():
        return images, np.stack([module(torch.from_numpy(x).double()).numpy() for x in images])


# ------------------------------------------------------------------ making


def run_once(source: str, folder: Path) -> None:
    """The network itself: nothing is written."""
    module, image = network(source)
    with torch.no_grad():
        module(image)


def compile_once(source: str, folder: Path) -> None:
    """torch.compile, to the end of its first run."""
    module, image = network(source)
    with torch.no_grad():
        torch.compile(module)(image)


def bare(source: str, folder: Path) -> None:
    """torch.onnx.export and nothing else."""
    exported(*network(source), folder / "bare.onnx")


def exported(module: nn.Module, image: Tensor, path: Path) -> None:
    """By the exporter that torch comes with, all in one file."""
    with contextlib.redirect_stdout(sys.stderr):
        program = torch.onnx.export(module, (image,), dynamo=True, verbose=False)
    assert program is not None
    program.save(str(path), external_data=False)


def hook(source: str, folder: Path) -> None:
    """The network's own fusing: timm's `reparameterize_model`, or the deploy form that its authors published."""
    if source.startswith("timm:"):
        from timm.utils.model import reparameterize_model

        module, image = network(source)
        module = reparameterize_model(module)
    else:
        module, image = network(source, deploy=True)
    exported(module, image, folder / "hook.onnx")


def onnxsim(source: str, folder: Path) -> None:
    """onnxsim of the bare file."""
    import onnx
    import onnxsim as tool

    onnx.save(tool.simplify(onnx.load(folder / "bare.onnx"), check_n=0)[0], folder / "onnxsim.onnx")


def onnxslim(source: str, folder: Path) -> None:
    """OnnxSlim of the bare file."""
    import onnxslim as tool

    tool.slim(str(folder / "bare.onnx"), str(folder / "onnxslim.onnx"))


def ort_optimized(source: str, folder: Path) -> None:
    """What ONNX Runtime makes of the bare file for itself, written down."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "ort.onnx")
    ort.InferenceSession(str(folder / "bare.onnx"), options, providers=["CPUExecutionProvider"])


def openvino(source: str, folder: Path) -> None:
    """OpenVINO's own form of the bare file, weights in float32."""
    import openvino as ov

    ov.save_model(ov.convert_model(folder / "bare.onnx"), folder / "openvino.xml", compress_to_fp16=False)


def ours(source: str, folder: Path) -> None:
    """`exporter export`, with all that it checks and writes."""
    from plainconv.exporter.cli.main import main

    bundle = folder / "bundle"
    if main(["export", source, "--random-init", "0", "-o", str(bundle), "--quiet"]):
        raise SystemExit("exporter export failed")
    shutil.copy(bundle / "model.onnx", folder / "ours.onnx")


# ------------------------------------------------------------------ running


def in_torch(source: str, folder: Path, threads: int) -> Run:
    """The module, in eager mode."""
    return _of_module(network(source)[0])


def compiled(source: str, folder: Path, threads: int) -> Run:
    """The module, compiled."""
    return _of_module(torch.compile(network(source)[0]))


def _of_module(module: Any) -> Run:
    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(x)))

    return run


def in_onnxruntime(file: str) -> Callable[[str, Path, int], Run]:
    """The file in ONNX Runtime, as it optimizes by default, its threads not spinning."""

    def load(source: str, folder: Path, threads: int) -> Run:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: np.asarray(session.run(None, {name: x})[0])

    return load


def in_openvino(source: str, folder: Path, threads: int) -> Run:
    """OpenVINO's form in OpenVINO, set up for latency, in float32."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = ov.Core().compile_model(folder / "openvino.xml", "CPU", settings)
    return lambda x: np.array(model([x])[0])


FORMS: dict[str, Form] = {
    "torch eager": Form(run_once, in_torch),
    "torch.compile": Form(compile_once, compiled),
    "torch.onnx.export": Form(bare, in_onnxruntime("bare.onnx"), "bare.onnx"),
    "onnxsim": Form(onnxsim, in_onnxruntime("onnxsim.onnx"), "onnxsim.onnx", "onnxsim"),
    "OnnxSlim": Form(onnxslim, in_onnxruntime("onnxslim.onnx"), "onnxslim.onnx", "onnxslim"),
    "ONNX Runtime's optimizer": Form(ort_optimized, in_onnxruntime("ort.onnx"), "ort.onnx", "onnxruntime"),
    "OpenVINO": Form(openvino, in_openvino, "openvino.xml", "openvino"),
    "its own fusing": Form(hook, in_onnxruntime("hook.onnx"), "hook.onnx"),
    "plainconv": Form(ours, in_onnxruntime("ours.onnx"), "ours.onnx"),
}
"""In the order of the table; what starts from the bare file comes behind it."""

if __name__ == "__main__":
    FORMS[sys.argv[1]].make(sys.argv[2], Path(sys.argv[3]))
