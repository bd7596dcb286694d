"""Our lanes, graphs, splits on the streams of one GPU and DLPack, on a real GPU, with engines that torch computes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from conditions import milliseconds, need
from table import Row

SIZE = 64


def section() -> Iterator[Row]:
    """A row for each thing that only a GPU shows."""
    for name, measure in (
        ("whole, host arrays", whole_on_host),
        ("whole, CUDA tensors", whole_on_tensors),
        ("whole, by 8 threads", whole_by_threads),
        ("split on two streams of one GPU, against the whole", split_on_streams),
        ("split on two GPUs", split_on_gpus),
    ):
        yield Row("lanes", name, measure)


def needed() -> None:
    need("torch", "cuda.bindings", "cuda.core")


def modules() -> tuple[Any, Any, Any, Any]:
    """Stem, two branches, and their sum, of seeded weights."""
    import torch

    class Add(torch.nn.Module):
        def forward(self, a: Any, b: Any) -> Any:
            return a + b

    torch.manual_seed(0)
    stem = torch.nn.Conv2d(3, SIZE, 3, padding=1)
    left, right = (
        torch.nn.Sequential(*(torch.nn.Conv2d(SIZE, SIZE, 3, padding=1) for _ in range(12))) for _ in range(2)
    )
    return stem, left, right, Add()


def specs() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    from plainconv.exporter.bundle import TensorSpec

    return (TensorSpec("x", "float32", (1, 3, 56, 56)),), (TensorSpec("y", "float32", (1, SIZE, 56, 56)),)


def whole_runner() -> tuple[Any, Any]:
    """The runner, and the network as torch has it."""
    import torch
    from torch_engine import part

    from plainconv.engines.cuda.runtime import CudaRuntime
    from plainconv.engines.schedule import whole
    from plainconv.engines.tensorrt.runner import TensorRTRunner

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    stem, left, right, add = modules()

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList([stem, left, right, add])

        def forward(self, x: Any) -> Any:
            s = self.parts[0](x)
            return self.parts[3](self.parts[1](s), self.parts[2](s))

    network, (inputs, outputs) = Whole().eval().cuda(), specs()
    facts = {"backend": "torch", "precision": "fp32", "inputs": inputs, "outputs": outputs}
    parts = [part("", network, ("x",), ("y",))]
    return TensorRTRunner(whole(inputs, outputs), parts, CudaRuntime(), devices=(0,), **facts), network


def images(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(1, 3, 56, 56)).astype(np.float32)


def check(found: Any, network: Any, x: Any) -> None:
    """Raise AssertionError where a result is not torch's."""
    import torch

    with torch.inference_mode():
        wanted = network(torch.as_tensor(x).cuda()).cpu().numpy()
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-4, atol=1e-4)


def told(runner: Any) -> str:
    return "; ".join(runner.notes) or "replayed as a CUDA graph"


def whole_on_host() -> str:
    needed()
    runner, network = whole_runner()
    with runner:
        for seed in range(8):
            check(runner({"x": images(seed)})["y"], network, images(seed))
        stages = ", ".join(f"{name} {ms:.3f}" for name, ms in runner.stages({"x": images(0)}).items())
        return f"{milliseconds(lambda: runner({'x': images(0)})):.3f} ms a call ({stages}); {told(runner)}"


def whole_on_tensors() -> str:
    needed()
    import torch

    runner, network = whole_runner()
    with runner, torch.cuda.stream(torch.cuda.Stream()):
        for seed in range(16):
            x = torch.from_numpy(images(seed)).cuda() + 0  # still being written when it is given
            y = torch.from_dlpack(runner({"x": x})["y"])
            check(y.cpu(), network, images(seed))
            del y
        x = torch.from_numpy(images(0)).cuda()
        ours = milliseconds(lambda: runner({"x": x}))
        with torch.inference_mode():
            eager = milliseconds(lambda: network(x))
        return f"{ours:.3f} ms a call, torch eager {eager:.3f}; {told(runner)}"


def whole_by_threads() -> str:
    needed()
    runner, network = whole_runner()
    with runner, ThreadPoolExecutor(8) as pool:
        for seed, result in enumerate(pool.map(lambda seed: runner({"x": images(seed)})["y"], range(400))):
            if seed % 20 == 0:
                check(result, network, images(seed))
        return f"400 calls right; {told(runner)}"


def split_runner(devices: tuple[int, ...]) -> Any:
    """Its branches on two streams of a device, or on two devices."""
    from torch_engine import part

    from plainconv.engines.cuda.runtime import CudaRuntime
    from plainconv.engines.schedule import schedule_of
    from plainconv.engines.tensorrt.runner import TensorRTRunner
    from plainconv.exporter.bundle import PartRecord, SplitRecord, TensorSpec

    (x,), (y,) = specs()
    s, a, b = (TensorSpec(name, "float32", y.shape) for name in "sab")
    second = (1, 0) if len(devices) > 1 else (0, 1)
    records = (
        PartRecord("stem", "", "", 0, 0, (x,), (s,), {"x": None}),
        PartRecord("left", "", "", 0, 0, (s,), (a,), {"s": "stem"}),
        PartRecord("right", "", "", *second, (s,), (b,), {"s": "stem"}),
        PartRecord("add", "", "", 0, 0, (a, b), (y,), {"a": "left", "b": "right"}),
    )
    schedule = schedule_of(SplitRecord("fp32", "", len(devices), 2, records, {"y": "add"}))
    parts = [
        part(r.name, m, tuple(i.name for i in r.inputs), tuple(o.name for o in r.outputs), devices[r.device])
        for r, m in zip(records, modules(), strict=True)
    ]
    facts = {"backend": "torch", "precision": "fp32", "inputs": (x,), "outputs": (y,)}
    return TensorRTRunner(schedule, parts, CudaRuntime(), devices=devices, **facts)


def split_result(devices: tuple[int, ...]) -> str:
    whole, network = whole_runner()
    with whole, split_runner(devices) as split:
        for seed in range(8):
            check(split({"x": images(seed)})["y"], network, images(seed))
            whole({"x": images(seed)})
        one, two = (milliseconds(lambda each=each: each({"x": images(0)})) for each in (whole, split))
        return f"{two:.3f} ms a call, whole {one:.3f} ({one / two:.2f}×); {told(split)}"


def split_on_streams() -> str:
    needed()
    return split_result((0,))


def split_on_gpus() -> str:
    needed()
    import torch
    from table import Skipped

    if torch.cuda.device_count() < 2:
        raise Skipped("one GPU on this machine")
    return split_result((0, 1))
