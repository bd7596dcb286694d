"""What Triton's clients and load balancers call beside KServe's methods. Taken by fields: this file imports no gRPC.

A method is its name, how it is called, its request's class and what its answers become bytes by.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]

from .. import described, kserve_parts
from ..refusals import BadRequestError, RefusedError, UnavailableError, UnknownError
from ..service import Service
from .messages import message, named

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
_AT_ONCE = 16  # of one stream's requests
_LOOK_S = 0.2
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


@dataclass(frozen=True)
class Method:
    """One method: `streams` says whether requests and answers are one or many."""

    call: Callable[[Any, Any], Any]
    request: Any
    streams: tuple[bool, bool] = (False, False)


class Extensions:
    """The methods."""

    def __init__(self, repository: Any, servicer: Any, service: Service, health: Any) -> None:
        """`health` is the module of that protocol's messages."""
        self._repository, self._servicer, self._service, self._health = repository, servicer, service, health

    def methods(self) -> dict[str, Method]:
        """Each by its full name."""
        by_name = message("RepositoryModelLoadRequest")
        asked = message("ModelRequest")
        own = {
            "RepositoryIndex": Method(self.index, message("RepositoryIndexRequest")),
            "RepositoryModelLoad": Method(self.load, by_name),
            "RepositoryModelUnload": Method(self.unload, by_name),
            "ModelConfig": Method(self.config, asked),
            "ModelStatistics": Method(self.statistics, asked),
            "SystemSharedMemoryRegister": Method(self.register, message("Region")),
            "SystemSharedMemoryUnregister": Method(self.unregister, message("RegionRequest")),
            "SystemSharedMemoryStatus": Method(self.regions, message("RegionRequest")),
            "ModelStreamInfer": Method(self.stream, kserve_parts.messages.ModelInferRequest, (True, True)),
        }
        checked = self._health.HealthCheckRequest
        health = {"Check": Method(self.check, checked), "Watch": Method(self.watch, checked, (False, True))}
        return {f"/{SERVICE}/{name}": each for name, each in own.items()} | {
            f"/{HEALTH}/{name}": each for name, each in health.items()
        }

    async def index(self, request: Any, context: Any) -> Any:
        """The models there are."""
        return ParseDict({"models": await self._repository.index(request.ready)}, message("RepositoryIndexResponse")())

    async def load(self, request: Any, context: Any) -> Any:
        """Load a model."""
        if request.parameters:
            raise BadRequestError("loading takes no parameters here: a model is what its bundle says; leave them out")
        outcome = await self._repository.load(named(request))
        return kserve_parts.messages.RepositoryModelLoadResponse(model_name=outcome["name"], isLoaded=outcome["load"])

    async def unload(self, request: Any, context: Any) -> Any:
        """Unload a model."""
        outcome = await self._repository.unload(named(request))
        answer = kserve_parts.messages.RepositoryModelUnloadResponse
        return answer(model_name=outcome["name"], isUnloaded=outcome["unload"])

    async def config(self, request: Any, context: Any) -> Any:
        """The model as Triton's configuration describes one."""
        config = described.config(self._service, request.name, request.version)
        numbered = {"config": described.numbered(config)}
        return ParseDict(numbered, message("ModelConfigResponse")(), ignore_unknown_fields=True)

    async def statistics(self, request: Any, context: Any) -> Any:
        """What was counted of a model, or of all."""
        found = described.statistics(self._service, request.name, request.version)
        return ParseDict(found, message("ModelStatisticsResponse")())

    async def register(self, request: Any, context: Any) -> Any:
        """Register a region of shared memory."""
        self._service.regions().register(request.name, request.key, request.offset, request.byte_size)
        return message("Empty")()

    async def unregister(self, request: Any, context: Any) -> Any:
        """Unregister a region, or all."""
        self._service.regions().unregister(request.name)
        return message("Empty")()

    async def regions(self, request: Any, context: Any) -> Any:
        """What is registered."""
        rows = [{"key": row["name"], "value": row} for row in self._service.regions().status(request.name)]
        return ParseDict({"regions": rows}, message("RegionsResponse")())

    async def stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer each of a stream of requests, in their order, several at a time. Raises RefusedError."""
        under_way: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(_AT_ONCE)
        tasks: set[asyncio.Task[Any]] = set()

        async def read() -> None:
            try:
                async for received in requests:
                    task = asyncio.ensure_future(self._streamed(received, context))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    await under_way.put(task)
            finally:
                await under_way.put(None)

        reading = asyncio.ensure_future(read())
        try:
            while (task := await under_way.get()) is not None:
                yield await task
            await reading
        finally:
            for each in (reading, *tasks):
                each.cancel()

    async def _streamed(self, received: Any, context: Any) -> Any:
        answer = message("ModelStreamInferResponse")
        if self._service.refusing:
            raise UnavailableError("the server is about to stop")
        with self._service.request():
            try:
                if received.message is None:
                    raise BadRequestError("the message cannot be read: it is not what this method takes")
                with self._service.pending(received.size, received.peer):
                    response = await self._servicer.ModelInfer(received.message, context)
            except RefusedError as error:
                return answer(error_message=str(error))
        return answer(infer_response=response.SerializeToString())

    async def check(self, request: Any, context: Any) -> Any:
        """Whether the server, or a model, takes requests. Raises UnknownError where there is no such model."""
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            raise UnknownError("there is no such service; wanted none, or a model")
        return self._health.HealthCheckResponse(status=status)

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The same, and each change of it."""
        told = None
        while True:
            status = self._status(request.service)
            if status != told:
                told = status
                yield self._health.HealthCheckResponse(status=status)
            if self._service.refusing:
                return
            await asyncio.sleep(_LOOK_S)

    def _status(self, name: str) -> int:
        if name in ("", SERVICE):
            return SERVING if self._service.ready() else NOT_SERVING
        with contextlib.suppress(RefusedError):
            self._service.store.model(name)
            return SERVING if self._service.ready() else NOT_SERVING
        return NOT_SERVING if name in self._service.store.known() else SERVICE_UNKNOWN
