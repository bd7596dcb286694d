"""An engine of TensorRT's interface that runs a torch module: our lanes and graphs on a real GPU without TensorRT."""

from typing import Any

import torch

from plainconv.engines.tensorrt.contexts import Contexts
from plainconv.engines.tensorrt.parts import PartEngine


class TorchEngine:
    """An ICudaEngine: `module` maps the inputs, in the order of `inputs`, to a tuple of the outputs."""

    device_memory_size_v2 = 0

    def __init__(self, module: torch.nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], device: int) -> None:
        self.module, self.inputs, self.outputs, self.device = module.to(f"cuda:{device}"), inputs, outputs, device
        self.num_io_tensors = len(inputs) + len(outputs)

    def get_tensor_name(self, index: int) -> str:
        """Inputs, then outputs."""
        return (*self.inputs, *self.outputs)[index]

    def run(self, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The module's outputs."""
        with torch.inference_mode():
            results = self.module(*tensors)
        return results if isinstance(results, tuple) else (results,)

    def create_execution_context(self) -> "TorchContext":
        """A context with a memory pool of its own: what its graph writes is nobody else's."""
        return TorchContext(self)


class TorchContext:
    """An IExecutionContext of float32 tensors."""

    def __init__(self, engine: TorchEngine) -> None:
        self.engine, self.pool = engine, torch.cuda.MemPool()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.known: dict[tuple[Any, ...], list[tuple[int, ...]]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Takes any."""
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Takes any."""
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Of an output, by a run on zeros."""
        key = tuple(self.shapes[each] for each in self.engine.inputs)
        if key not in self.known:
            zeros = [torch.zeros(shape, device=f"cuda:{self.engine.device}") for shape in key]
            self.known[key] = [tuple(y.shape) for y in self.engine.run(zeros)]
            torch.cuda.synchronize(self.engine.device)
        return self.known[key][self.engine.outputs.index(name)]

    def execute_async_v3(self, stream: int) -> bool:
        """Run the module on the stream, and copy its outputs to where they are wanted."""
        device = self.engine.device
        with torch.cuda.use_mem_pool(self.pool), torch.cuda.stream(torch.cuda.ExternalStream(stream, device)):
            results = self.engine.run([self._tensor(name, self.shapes[name]) for name in self.engine.inputs])
            for name, result in zip(self.engine.outputs, results, strict=True):
                self._tensor(name, tuple(result.shape)).copy_(result)
        return True

    def _tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        facts = {"shape": shape, "typestr": "<f4", "data": (self.addresses[name], False), "version": 2}
        view = type("View", (), {"__cuda_array_interface__": facts})()
        return torch.as_tensor(view, device=f"cuda:{self.engine.device}")


def part(
    name: str, module: torch.nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], device: int = 0
) -> PartEngine:
    """The module as a part of a network, or with no name as all of it."""
    engine = TorchEngine(module.eval(), inputs, outputs, device)
    return PartEngine(name, engine, Contexts(engine.create_execution_context, captures=True, scratch=0), device)
