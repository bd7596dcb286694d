"""The gRPC server: KServe's servicer and Triton's further methods, guarded as the HTTP server is.

The only file that imports gRPC.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else its library writes what clients send to stderr, as it came
import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2 as health  # type: ignore[import-untyped]

from plainconv.exporter.errors import EngineError

from .. import kserve_parts
from ..access_log import AccessLog, facts, note, trace_of
from ..auth import Bearer
from ..options import ServeOptions
from ..refusals import BadRequestError, RefusedError, UnavailableError
from ..service import Service
from ..tls import Certificates
from .extensions import HEALTH, SERVICE, Extensions, Method
from .guests import Guests, address_of, read_in_time

_log = logging.getLogger("plainconv.serving")
OPEN_METHODS = (
    f"/{SERVICE}/ServerLive",
    f"/{SERVICE}/ServerReady",
    f"/{HEALTH}/Check",
    f"/{HEALTH}/Watch",
)
_OVERHEAD = 1024 * 1024  # of a message beyond its tensors: names, shapes, parameters
_MOST_MESSAGE = 2**31 - 1  # bytes: gRPC counts them in an int
_MOST_METADATA = 64 * 1024
_MOST_STREAMS = 128  # of one connection at a time
_HANDSHAKE_TIMEOUT_MS = 10_000

Call = Callable[[Any, Any], Awaitable[Any]]


class Received:
    """A message as it came: what it says, None where it cannot be read, its size, and who sent it."""

    __slots__ = ("message", "peer", "size")

    def __init__(self, message: Any, size: int) -> None:
        self.message, self.size, self.peer = message, size, ""


class Sender:
    """Whose call it is, since when. Read at its begin: gRPC does not survive it for a call that is over."""

    def __init__(self, context: Any) -> None:
        self.start, self.peer = time.monotonic(), context.peer()
        self.trace = trace_of((k, v) for k, v in context.invocation_metadata() or () if isinstance(v, str))


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """What every call passes: the token, the counters, the access log, and one form for everything that is refused.

    Every method takes a stream to gRPC, which else calls nobody before a message is there: so who may not ask is told
    before its message is read, and a message has its time.
    """

    def __init__(
        self, service: Service, bearer: Bearer, log: AccessLog, own: Mapping[str, Method], guests: Guests
    ) -> None:
        """`own` are methods by name, in the place of the server's."""
        self._service, self._bearer, self._log, self._own, self._guests = service, bearer, log, own, guests
        self._handlers: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The guarded handler of a method; None where there is no such method."""
        method = details.method
        if method not in self._handlers:
            own = self._own.get(method)
            handler = None if own else await continuation(details)
            if own is not None:
                self._handlers[method] = self._handler_of(method, own)
            elif handler is not None:
                self._handlers[method] = grpc.stream_unary_rpc_method_handler(
                    self._guarded(method, handler.unary_unary),
                    request_deserializer=_reading(handler.request_deserializer),
                    response_serializer=handler.response_serializer,
                )
            else:
                return None
        return self._handlers[method]

    def _handler_of(self, name: str, method: Method) -> Any:
        codec = {"request_deserializer": _reading(method.request.FromString), "response_serializer": _bytes}
        if method.streams == (False, False):
            return grpc.stream_unary_rpc_method_handler(self._guarded(name, method.call), **codec)
        many, _ = method.streams
        return grpc.stream_stream_rpc_method_handler(self._guarded_stream(name, method.call, many=many), **codec)

    def _guarded(self, method: str, call: Call) -> Call:
        async def guarded(given: Any, context: Any) -> Any:
            sender, status, refused = Sender(context), "OK", None
            with facts() as known:
                try:
                    with self._guests.call(sender.peer, large=method not in OPEN_METHODS):
                        self._check(method, context)
                        return await self._called(method, call, await self._message(context, sender.peer), context)
                except grpc.aio.AbortError:
                    status = "DEADLINE_EXCEEDED"
                    raise
                except Exception as error:
                    status, refused = _refusal(error)
                except asyncio.CancelledError:
                    status = "CANCELLED"
                    raise
                finally:
                    self._ended(method, status, sender, known)
                await context.abort(getattr(grpc.StatusCode, status), refused)

        return guarded

    def _guarded_stream(self, method: str, call: Callable[[Any, Any], AsyncIterator[Any]], *, many: bool) -> Any:
        """A stream is no request under way: each of its messages is, where the method says so."""

        async def guarded(given: Any, context: Any) -> AsyncIterator[Any]:
            sender, status, refused = Sender(context), "OK", None
            with facts() as known:
                try:
                    with self._guests.call(sender.peer, large=method not in OPEN_METHODS):
                        self._check(method, context)
                        first = None if many else await self._message(context, sender.peer)
                        asked = _readable(first).message if first else self._from(given, sender.peer)
                        async for answer in call(asked, context):
                            yield answer
                        return
                except grpc.aio.AbortError:
                    status = "DEADLINE_EXCEEDED"
                    raise
                except Exception as error:
                    status, refused = _refusal(error)
                except (asyncio.CancelledError, GeneratorExit):
                    status = "CANCELLED"
                    raise
                finally:
                    self._ended(method, status, sender, known)
                await context.abort(getattr(grpc.StatusCode, status), refused)

        return guarded

    async def _message(self, context: Any, peer: str) -> Received:
        """The one message of a call. Raises BadRequestError where there is none, AbortError where none is in time."""

        async def end(said: str) -> None:
            with contextlib.suppress(grpc.aio.BaseError):  # which says that it was ended
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, said)

        received = await read_in_time(context, self._service.options.timeout_s, end)
        if not isinstance(received, Received):
            raise BadRequestError("the message is missing, or larger than this server takes")
        received.peer = address_of(peer)
        self._guests.moved(peer)
        note(bytes_in=received.size)
        return received

    async def _from(self, requests: AsyncIterator[Received], peer: str) -> AsyncIterator[Received]:
        async for received in requests:
            received.peer = address_of(peer)
            self._guests.moved(peer)
            yield received

    async def _called(self, method: str, call: Call, received: Received, context: Any) -> Any:
        if self._service.good_bye:
            await self._service.good_bye.wait()
        if self._service.good_bye or (self._service.refusing and method not in OPEN_METHODS):
            raise UnavailableError("the server is about to stop")
        with self._service.request(), self._service.pending(received.size, received.peer):
            return await call(_readable(received).message, context)

    def _check(self, method: str, context: Any) -> None:
        if method not in OPEN_METHODS:
            given = [value for key, value in context.invocation_metadata() if key == "authorization"]
            self._bearer.check(given[0] if len(given) == 1 else None)

    def _ended(self, method: str, status: str, sender: "Sender", known: Mapping[str, Any]) -> None:
        self._service.metrics.answered("grpc", status)
        self._log.add(
            {
                "protocol": "grpc",
                "method": method.rpartition("/")[2],
                "status": status,
                "ms": round((time.monotonic() - sender.start) * 1e3, 3),
                "client": sender.peer,
                **sender.trace,
                **known,
            }
        )


def server_of(
    service: Service, bearer: Bearer, log: AccessLog, options: ServeOptions, certificates: Certificates | None = None
) -> tuple[Any, int, Guests]:
    """The server, bound but not started, its port and its guests. Raises EngineError where it cannot be bound."""
    plane = kserve_parts.BundlePlane(service)
    repository = kserve_parts.RepositoryExtension(plane, service)
    servicer = kserve_parts.Servicer(plane, repository)
    own = Extensions(repository, servicer, service, health).methods()
    limit = min(options.max_body + _OVERHEAD, _MOST_MESSAGE)
    guests = Guests(options.max_connections, limit, options.max_pending)
    server = grpc.aio.server(
        interceptors=(Guard(service, bearer, log, own, guests),),
        maximum_concurrent_rpcs=options.max_connections,
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.max_metadata_size", _MOST_METADATA),
            ("grpc.max_allowed_incoming_connections", options.max_connections),
            ("grpc.max_concurrent_streams", _MOST_STREAMS),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_TIMEOUT_MS),
            ("grpc.so_reuseport", 0),
        ],
    )
    kserve_parts.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{host}:{options.grpc_port}"
    try:
        if certificates:
            port = server.add_secure_port(address, _credentials(certificates))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise EngineError(f"gRPC cannot listen on {address}; give another --grpc-port, or 0 for any that is free")
    return server, port, guests


def _credentials(certificates: Certificates) -> Any:
    """Those of the newest certificate, which each handshake asks for."""
    told = certificates.pair

    def fetch() -> Any:
        nonlocal told
        newest = certificates.pair
        if newest is told:
            return None
        told = newest
        return grpc.ssl_server_certificate_configuration([newest])

    return grpc.dynamic_ssl_server_credentials(grpc.ssl_server_certificate_configuration([told]), fetch)


def _refusal(error: Exception) -> tuple[str, str]:
    """The status and what to say; what is unexpected is said in the log alone."""
    if isinstance(error, RefusedError):
        return error.grpc, str(error)
    _log.error("a request met a fault of the server", exc_info=error)
    return "INTERNAL", "the server failed on this request"


def _readable(received: Received) -> Received:
    if received.message is None:
        raise BadRequestError("the message cannot be read: it is not what this method takes")
    return received


def _reading(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Received]:
    """A deserializer that never raises: what raises there is a fault of the server to gRPC."""

    def read(data: bytes) -> Received:
        try:
            return Received(deserialize(data), len(data))
        except DecodeError:
            return Received(None, len(data))

    return read


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
