"""Runs a TensorRT or TensorRT-RTX engine: buffers allocated once, one stream, copies in, the engine, copies out."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from exporter.bundle import ShapeRange, TensorSpec
from exporter.errors import EngineError

from .cuda import Cuda
from .runner import Array, Runner, check_inputs


class TensorRTRunner(Runner):
    """One execution context of one engine, with buffers for the largest shapes of its optimization profile.

    A call enqueues, on one stream and in this order: each input's shape and copy to the device, the engine, each
    output's copy to the host; then it waits for the stream.
    """

    def __init__(
        self,
        engine: Any,
        cuda: Cuda,
        *,
        backend: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        ranges: Mapping[str, ShapeRange],
        outlives: object = None,
    ) -> None:
        """Allocate for `engine` (an ICudaEngine) what its `inputs` and `outputs` need at most.

        `ranges` is its optimization profile, empty where its shapes are fixed; `outlives` is held for as long as the
        engine. Raises EngineError where the engine is not of these inputs and outputs, or the GPU's memory does not
        suffice.
        """
        self.backend, self.inputs, self.outputs = backend, inputs, outputs
        self._cuda, self._ranges = cuda, ranges
        self._engine, self._outlives = engine, outlives
        self._addresses: dict[str, int] = {}
        names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        wanted = {spec.name for spec in (*inputs, *outputs)}
        if names != wanted:
            raise EngineError(
                f"the engine has tensors {sorted(names)}, its bundle says {sorted(wanted)}; build it again"
            )
        with contextlib.ExitStack() as held:
            self._context: Any = engine.create_execution_context()
            if self._context is None:
                raise EngineError("the engine gives no execution context, likely for want of GPU memory; free some")
            self._stream = cuda.create_stream()
            held.callback(cuda.destroy_stream, self._stream)
            for spec in inputs:
                largest = ranges[spec.name].max if spec.name in ranges else _fixed(spec)
                self._set_shape(spec.name, largest)
                self._allocate(held, spec, largest)
            for spec in outputs:
                self._allocate(held, spec, self._shape_of(spec.name))
            self._held = held.pop_all()

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Runner`."""
        if self._context is None:
            raise EngineError("the runner is closed; load the bundle again")
        check_inputs(inputs, self.inputs, self._ranges)
        try:
            for name, array in inputs.items():
                self._set_shape(name, array.shape)
                self._cuda.copy_to_device(self._addresses[name], array, self._stream)
            outputs = {spec.name: np.empty(self._shape_of(spec.name), np.dtype(spec.dtype)) for spec in self.outputs}
            if not self._context.execute_async_v3(self._stream):
                raise EngineError("the engine did not run (execute_async_v3 failed); build it again on this machine")
            for name, array in outputs.items():
                self._cuda.copy_to_host(array, self._addresses[name], self._stream)
        finally:  # the arrays must outlive the copies, however this ends
            self._cuda.synchronize(self._stream)
        return outputs

    def close(self) -> None:
        """Release the buffers, the stream and the context."""
        self._held.close()
        self._context = self._engine = self._outlives = None  # in this order: each needs the next

    def _allocate(self, held: contextlib.ExitStack, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        address = self._cuda.allocate(int(np.prod(shape)) * np.dtype(spec.dtype).itemsize)
        held.callback(self._cuda.free, address)
        self._addresses[spec.name] = address
        if not self._context.set_tensor_address(spec.name, address):
            raise EngineError(f"the engine takes no buffer for {spec.name}; build it again")

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise EngineError(f"the engine does not take {name} of shape {list(shape)}; build it for that shape")

    def _shape_of(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise EngineError(f"the shape of {name} depends on the data ({list(shape)}), which this runner cannot run")
        return shape


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    sizes = tuple(axis for axis in spec.shape if isinstance(axis, int))
    if len(sizes) != len(spec.shape):
        raise EngineError(f"{spec} has a free axis and the engine no optimization profile for it; build it again")
    return sizes
