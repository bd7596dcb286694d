"""What both protocols call: a request to a model by name, answered in time, counted and logged."""

import asyncio
import collections
import contextvars
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plainconv.exporter.errors import EngineError

from ..runner import profile_for
from . import access_log
from .batcher import Answer
from .checks import check_inputs, wanted_outputs
from .model import Model
from .options import ServeOptions
from .refusals import (
    BadRequestError,
    DeadlineError,
    ForbiddenError,
    RefusedError,
    TooManyError,
    UnknownError,
    shown,
)
from .requests import InferRequest, InferResponse, refuse_shared
from .shared_memory import Regions
from .store import Store

if TYPE_CHECKING:
    from .metrics import Metrics

VERSION = "1"
KEPT = 4  # every fourth place or byte is kept from a peer that has all the others


class Service:
    """The models, and what is under way. On one event loop, but for what it hands to threads."""

    def __init__(self, store: Store, options: ServeOptions, metrics: "Metrics", regions: Regions | None = None) -> None:
        """Without `regions` no shared memory is offered."""
        self.store, self.options, self.metrics, self._regions = store, options, metrics, regions
        self.draining = False  # it is about to stop: not ready
        self.refusing = False  # it stops: nothing new over gRPC
        self.good_bye: asyncio.Event | None = None  # gRPC's; who is refused hears of it once that is said
        self.under_way, self.handled = 0, 0
        self._control = ThreadPoolExecutor(1, "control")
        self.pending_bytes: collections.Counter[str] = collections.Counter()  # by who sent them

    async def infer(self, name: str, request: InferRequest) -> InferResponse:
        """The answer of model `name`; within `pending` where tensors lie in shared memory. Raises RefusedError."""
        start = time.monotonic()
        known = name if name in self.store.ready() else ""
        access_log.note(model=known, id=request.id)
        try:
            check_version(request.version)
            with self.store.use(name) as model:
                if self._regions is None:
                    refuse_shared(request)
                if request.shared:
                    _room.get().grow(self.regions().size_of(request, self.options.max_body))  # they are copied
                    request = await self.regions().filled(request)
                response = await self._answered(name, model, request, start)
        except RefusedError as error:
            self.metrics.failed(known, error.reason, time.monotonic() - start)
            raise
        except asyncio.CancelledError:
            self.metrics.failed(known, "CANCELED", time.monotonic() - start)
            raise
        return response

    def ready(self) -> bool:
        """Whether it takes requests."""
        return not self.draining and bool(self.store.ready())

    async def load(self, name: str) -> None:
        """Load a model from the repository. Raises RefusedError."""
        self.check_repository()
        await self._in_control(self.store.load, name)

    async def unload(self, name: str) -> None:
        """Unload a model. Raises RefusedError."""
        self.check_repository()
        await self._in_control(self.store.unload, name)

    async def _in_control(self, work: Callable[[str], None], name: str) -> None:
        """Do what takes long, one at a time as it is, in a thread that nobody else waits for."""
        await asyncio.get_running_loop().run_in_executor(self._control, work, name)

    def check_repository(self) -> None:
        """Raise ForbiddenError where models may not be listed, loaded and unloaded by request."""
        if not self.options.repository:
            raise ForbiddenError("this server does not offer the repository API")

    def regions(self) -> Regions:
        """The regions of shared memory. Raises ForbiddenError where they are not offered."""
        if self._regions is None:
            raise ForbiddenError("this server does not offer shared memory; start it with --shared-memory")
        return self._regions

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request as under way: the server does not stop before it is answered."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self.handled += 1

    @contextmanager
    def pending(self, size: int = 0, peer: str = "") -> Iterator["Room"]:
        """Room for a request of `peer`, of `size` bytes. Raises TooManyError where all of them would take too much."""
        room = Room(self, peer)
        token = _room.set(room)
        try:
            room.grow(size)
            yield room
        finally:
            _room.reset(token)
            self.pending_bytes[peer] -= room.size
            if not self.pending_bytes[peer]:
                del self.pending_bytes[peer]

    async def _answered(self, name: str, model: Model, request: InferRequest, start: float) -> InferResponse:
        check_inputs(request.inputs, model.inputs)
        outputs = wanted_outputs(request, model.outputs)
        _check_batch(model, request)
        seconds = min(request.timeout_s or self.options.timeout_s, self.options.timeout_s)
        try:
            answer = await self._computed(model, request, start + seconds)
        except TimeoutError:
            raise DeadlineError(f"the answer was not there within {seconds:g} s") from None
        access_log.note(
            rows=next(iter(request.inputs.values())).shape[0] if model.covering else 1,
            queue_ms=round(answer.queue_s * 1e3, 3),
            compute_ms=round(answer.compute_s * 1e3, 3),
            batch_rows=answer.batch_rows,
        )
        places = {output.name: output.place for output in outputs if output.place}
        binary = frozenset(output.name for output in outputs if output.binary and not output.place)
        arrays = {o.name: answer.outputs[o.name] for o in outputs}
        response = InferResponse(name, VERSION, request.id, arrays, binary, places)
        if places:
            response = await self.regions().emptied(response)
        parts = (answer.queue_s, answer.input_s, answer.compute_s, answer.output_s)
        self.metrics.succeeded(name, time.monotonic() - start, *parts)
        return response

    async def _computed(self, model: Model, request: InferRequest, deadline: float) -> Answer:
        """The model's answer: the only request's here and now, else by the queue. Raises TimeoutError, RefusedError."""
        batcher, inputs = model.batcher, request.inputs
        if self.under_way <= 1 and batcher.is_short(inputs):
            await asyncio.sleep(0)  # who came at the same time is under way then
            if self.under_way <= 1 and (answer := batcher.run_alone(inputs, deadline)):
                if time.monotonic() > deadline:
                    raise TimeoutError
                return answer
        future = batcher.submit(inputs, deadline)
        return await asyncio.wait_for(asyncio.wrap_future(future), deadline - time.monotonic())


class Room:
    """What one request takes of the memory that there is for all of them: bytes that are here, not announced ones."""

    def __init__(self, service: Service, peer: str) -> None:
        self._service, self._peer, self.size = service, peer, 0

    def grow(self, size: int) -> None:
        """Take `size` bytes more. Raises TooManyError where that is too much, unless it is the only request.

        A quarter of the room is kept from whoever fills the rest.
        """
        most, held = self._service.options.max_pending, self._service.pending_bytes
        everyone = held.total()
        others = everyone - self.size
        if others and everyone + size > most:
            raise TooManyError("the requests under way fill this server's memory; try again later")
        own_others = held[self._peer] - self.size
        if own_others and held[self._peer] + size > most - most // KEPT:
            raise TooManyError("the requests under way from this address fill its share of the memory; try again later")
        self.hold(size)

    def hold(self, size: int) -> None:
        """Take `size` bytes more of what is there already."""
        self.size += size
        self._service.pending_bytes[self._peer] += size


_room: contextvars.ContextVar[Room] = contextvars.ContextVar("room")
"""Of the request that is handled, in this task and what it calls."""


def check_version(version: str) -> None:
    """Raise UnknownError for another version than the only one there is."""
    if version not in ("", VERSION):
        raise UnknownError(f"there is no version {shown(version)} of the model; wanted {VERSION}, or none")


def _check_batch(model: Model, request: InferRequest) -> None:
    """Raise BadRequestError for more rows than the server takes, or shapes that no engine here is for."""
    covering = model.covering
    if covering:
        rows = request.inputs[covering.names[0]].shape[0]
        if rows > covering.most:
            raise BadRequestError(f"the request has {rows} rows, this server takes up to {covering.most}; split it")
    if model.profiles:
        try:
            profile_for(request.inputs, model.inputs, model.profiles)
        except EngineError as error:
            raise BadRequestError(str(error)) from None
