"""Networks in each precision and batch: torch, plain networks of ours, ONNX Runtime, engines, and the roofline's floor.

A cell is milliseconds of one call, inputs and outputs on the GPU, and the error against float64 in spreads of the
output.
"""

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conditions import milliseconds, need
from roofline import ceilings, floor
from table import Row, Skipped

NETWORKS = ("vanillanet_6", "repvgg_a0", "parnet_l", "vanillanet_13")
PRECISIONS = ("fp32", "tf32", "fp16")
BATCHES = (1, 8, 32)


def section() -> Iterator[Row]:
    """What takes little time for all networks first, then what is compiled."""
    yield Row("roofline", "measured ceilings", lambda: ceilings().words)
    for how, measure in (("torch", torch_row), ("onnxruntime", onnxruntime_row), ("engine", engine_row)):
        for batch in BATCHES:
            for name in NETWORKS:
                for precision in PRECISIONS:
                    title = f"{name} {precision} batch {batch}"
                    yield Row(how, title, functools.partial(measure, name, precision, batch))
    for batch in BATCHES:
        for name in NETWORKS:
            for precision in ("fp16", "tf32"):
                title = f"{name} {precision} batch {batch}"
                yield Row("torch.compile", title, functools.partial(compiled_row, name, precision, batch))


@functools.cache
def pair(name: str) -> tuple[Any, Any]:
    """The training-time network with random weights, and its plain form."""
    import torch

    from plainconv.exporter.reparam import reparameterize
    from plainconv.exporter.source.randomize import randomized
    from plainconv.models import create

    with torch.no_grad():
        module = randomized(create(name), 0)
        return module, reparameterize(module, torch.randn(1, 3, 224, 224), check=False)[0]


def at(precision: str, module: Any) -> Any:
    """The module on the GPU, a copy, in this precision."""
    import copy

    import torch

    tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    moved = copy.deepcopy(module).eval().cuda()
    return moved.half() if precision == "fp16" else moved


def images(batch: int, precision: str) -> Any:
    import torch

    x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(batch)).cuda()
    return x.half() if precision == "fp16" else x


@functools.lru_cache(maxsize=2)
def reference(name: str, batch: int) -> Any:
    """The training-time network's outputs in float64."""
    import copy

    import torch

    with torch.inference_mode():
        module = copy.deepcopy(pair(name)[0]).double().eval().cuda()
        return torch.cat([module(x) for x in images(batch, "fp32").double().split(8)])


def error(name: str, batch: int, y: Any) -> str:
    """How far outputs are from float64, in spreads of it."""
    exact = reference(name, batch)
    spread = exact.std(dim=0).mean() if len(exact) > 1 else exact.std()
    return f"{float((y.double() - exact).abs().max() / spread):.1e}"


def torch_row(name: str, precision: str, batch: int) -> str:
    """Both forms, eager, and the floor of the plain one."""
    import torch

    x, cells = images(batch, precision), []
    with torch.inference_mode():
        for what, module in zip(("training", "plain"), pair(name), strict=True):
            moved = at(precision, module)
            ms = milliseconds(lambda moved=moved: moved(x))
            cells.append(f"{what} {ms:.3f} ms ({error(name, batch, moved(x))})")
        least = floor(moved, x, precision)
    return f"{', '.join(cells)}; floor {least:.3f} ms, plain is {ms / least:.1f}× of it"


def compiled_row(name: str, precision: str, batch: int) -> str:
    """Both forms by torch.compile."""
    import torch

    x, cells = images(batch, precision), []
    with torch.inference_mode():
        for what, module in zip(("training", "plain"), pair(name), strict=True):
            torch.compiler.reset()
            fast = torch.compile(at(precision, module), mode="max-autotune")
            cells.append(f"{what} {milliseconds(lambda fast=fast: fast(x)):.3f} ms ({error(name, batch, fast(x))})")
    return ", ".join(cells)


def onnxruntime_row(name: str, precision: str, batch: int) -> str:
    """ONNX Runtime's CUDA provider, with a CUDA graph and without, on host arrays."""
    need("onnx", "onnxscript", "onnxruntime")
    import onnxruntime
    import torch

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise Skipped("the ONNX Runtime here has no CUDA provider")
    if precision == "fp16":
        raise Skipped("its fp16 graph is the engine's, which is made with it")
    from plainconv.engines.onnxruntime.runner import OnnxRuntimeRunner
    from plainconv.exporter.errors import PlainconvError

    x, cells = images(batch, "fp32").cpu().numpy(), []
    with tempfile.TemporaryDirectory() as folder:
        file = exported(name, batch, Path(folder))
        for graph in (False, True):
            try:
                tf32 = precision == "tf32"
                with OnnxRuntimeRunner(file, providers="cuda", tf32=tf32, cuda_graph=graph) as runner:
                    key = runner.inputs[0].name
                    ms = milliseconds(lambda runner=runner, key=key: runner({key: x}))
                    y = torch.from_numpy(next(iter(runner({key: x}).values()))).cuda()
                    cells.append(f"{'with' if graph else 'without'} a graph {ms:.3f} ms ({error(name, batch, y)})")
            except PlainconvError as refused:
                cells.append(f"{'with' if graph else 'without'} a graph: {refused}")
    return ", ".join(cells)


def exported(name: str, batch: int, folder: Path) -> Path:
    """The plain network as an ONNX file of fixed shapes."""
    import torch

    from plainconv.exporter.to_onnx.export import onnx_from_module

    return onnx_from_module(pair(name)[1], torch.randn(batch, 3, 224, 224), folder / "model.onnx")


@functools.cache
def bundle(name: str, precision: str, batch: int) -> Path:
    """A bundle with an engine for this GPU, in a folder that lasts as long as the process."""
    from plainconv.exporter.cli.main import main

    folder = Path(tempfile.mkdtemp()) / name
    kind, tf32 = ("fp16", []) if precision == "fp16" else ("fp32", ["--tf32"] if precision == "tf32" else [])
    shapes = ["--dynamic-batch", f"{batch}:{batch}:{batch}"]
    asked = ["run", name, "--random-init", "0", "--precision", kind, *tf32, *shapes, "-o", str(folder), "--quiet"]
    if main(asked):
        raise Skipped("no engine could be built here, see above")
    return folder


def engine_row(name: str, precision: str, batch: int) -> str:
    """TensorRT's engine, or TensorRT-RTX's, on the GPU and from the host."""
    need("onnx", "onnxscript", "onnxruntime", "cuda.bindings", "cuda.core")
    import torch

    from plainconv import engines
    from plainconv.engines.backend import choose
    from plainconv.exporter.bundle import Bundle
    from plainconv.exporter.errors import PlainconvError

    try:
        backend = choose()
    except PlainconvError as missing:
        raise Skipped(str(missing)) from None
    assert backend is not None
    target = engines.find_gpu().target
    if backend.takes_targets:
        from plainconv.engines.tensorrt.bindings import import_runtime
        from plainconv.engines.tensorrt.targets import known_targets

        if target not in known_targets(import_runtime(backend)):
            raise Skipped(f"{backend.name} {backend.version} builds nothing for {target}")
    opened = Bundle.open(bundle(name, precision, batch))
    kind = "fp16" if precision == "fp16" else "fp32"
    x = images(batch, "fp32")
    with engines.load(opened, backend.name, precision=kind, eager_kernels=True) as runner:
        key, on_gpu = runner.inputs[0].name, x.cpu().numpy()
        y = torch.from_dlpack(next(iter(runner({key: x}).values())))
        ms, host = milliseconds(lambda: runner({key: x})), milliseconds(lambda: runner({key: on_gpu}))
        stages = ", ".join(f"{stage} {time:.3f}" for stage, time in runner.stages({key: on_gpu}).items())
        notes = "; ".join(["", *runner.notes])
        return f"{ms:.3f} ms ({error(name, batch, y)}), from the host {host:.3f} ({stages}){notes}"
