"""The gRPC server: KServe's servicer, guarded as the HTTP server is. The only file that imports gRPC.

Triton's clients call RepositoryIndex, which KServe's protocol lacks, and name the model of a load in another field;
both are understood.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else its library writes what clients send to stderr, as it came
import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from plainconv.exporter.errors import EngineError

from .. import kserve_parts
from ..access_log import AccessLog, facts
from ..auth import Bearer
from ..options import ServeOptions
from ..refusals import BadRequestError, RefusedError
from ..service import Service
from .repository import index_messages, load_message, named

_log = logging.getLogger("plainconv.serving")
SERVICE = "inference.GRPCInferenceService"
OPEN_METHODS = (f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady")
_OVERHEAD = 1024 * 1024  # of a message beyond its tensors: names, shapes, parameters
_MOST_METADATA = 64 * 1024

Call = Callable[[Any, Any], Awaitable[Any]]


class Received:
    """A message as it came: what it says, None where it cannot be read, and its size."""

    __slots__ = ("message", "size")

    def __init__(self, message: Any, size: int) -> None:
        self.message, self.size = message, size


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """What every call passes: the token, the counters, the access log, and one form for everything that is refused."""

    def __init__(self, service: Service, bearer: Bearer, log: AccessLog, own: Mapping[str, Any]) -> None:
        """`own` are handlers by method, in the place of the server's."""
        self._service, self._bearer, self._log, self._own = service, bearer, log, own
        self._handlers: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The guarded handler of a method; None where there is no such method."""
        method = details.method
        if method not in self._handlers:
            handler = self._own.get(method) or await continuation(details)
            if handler is None:
                return None
            self._handlers[method] = grpc.unary_unary_rpc_method_handler(
                self._guarded(method, handler.unary_unary),
                request_deserializer=_reading(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return self._handlers[method]

    def _guarded(self, method: str, call: Call) -> Call:
        async def guarded(received: Received, context: Any) -> Any:
            start, status, refused = time.monotonic(), "OK", None
            with facts() as known, self._service.request():
                try:
                    return await self._called(method, call, received, context)
                except RefusedError as error:
                    status, refused = error.grpc, str(error)
                except asyncio.CancelledError:
                    status = "CANCELLED"
                    raise
                except Exception:
                    _log.exception("a request met a fault of the server")
                    status, refused = "INTERNAL", "the server failed on this request"
                finally:
                    self._service.metrics.answered("grpc", status)
                    self._log.add(
                        {
                            "protocol": "grpc",
                            "method": method.rpartition("/")[2],
                            "status": status,
                            "ms": round((time.monotonic() - start) * 1e3, 3),
                            "client": context.peer(),
                            "bytes_in": received.size,
                            **known,
                        }
                    )
                await context.abort(getattr(grpc.StatusCode, status), refused)

        return guarded

    async def _called(self, method: str, call: Call, received: Received, context: Any) -> Any:
        if method not in OPEN_METHODS:
            given = [value for key, value in context.invocation_metadata() if key == "authorization"]
            self._bearer.check(given[0] if len(given) == 1 else None)
        if received.message is None:
            raise BadRequestError("the message cannot be read: it is not what this method takes")
        with self._service.pending(received.size):
            return await call(received.message, context)


class Repository:
    """The methods on models by name, in the messages of Triton and of KServe."""

    def __init__(self, extension: Any) -> None:
        self._extension = extension

    def handlers(self) -> dict[str, Any]:
        """Each method's handler."""
        asked, _ = index_messages()
        by_name = load_message()
        methods = {
            "RepositoryIndex": (self.index, asked),
            "RepositoryModelLoad": (self.load, by_name),
            "RepositoryModelUnload": (self.unload, by_name),
        }
        return {
            f"/{SERVICE}/{name}": grpc.unary_unary_rpc_method_handler(
                call, request_deserializer=message.FromString, response_serializer=_bytes
            )
            for name, (call, message) in methods.items()
        }

    async def index(self, request: Any, context: Any) -> Any:
        """The models there are."""
        answer = index_messages()[1]()
        for row in await self._extension.index(request.ready):
            answer.models.add(**row)
        return answer

    async def load(self, request: Any, context: Any) -> Any:
        """Load a model."""
        if request.parameters:
            raise BadRequestError("loading takes no parameters here: a model is what its bundle says; leave them out")
        outcome = await self._extension.load(named(request))
        return kserve_parts.messages.RepositoryModelLoadResponse(model_name=outcome["name"], isLoaded=outcome["load"])

    async def unload(self, request: Any, context: Any) -> Any:
        """Unload a model."""
        outcome = await self._extension.unload(named(request))
        answer = kserve_parts.messages.RepositoryModelUnloadResponse
        return answer(model_name=outcome["name"], isUnloaded=outcome["unload"])


def server_of(service: Service, bearer: Bearer, log: AccessLog, options: ServeOptions) -> tuple[Any, int]:
    """The server, bound but not started, and its port. Raises EngineError where it cannot be bound."""
    plane = kserve_parts.BundlePlane(service)
    extension = kserve_parts.RepositoryExtension(plane, service)
    limit = options.max_body + _OVERHEAD
    server = grpc.aio.server(
        interceptors=(Guard(service, bearer, log, Repository(extension).handlers()),),
        maximum_concurrent_rpcs=options.max_connections,
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.max_metadata_size", _MOST_METADATA),
            ("grpc.so_reuseport", 0),
        ],
    )
    kserve_parts.add_GRPCInferenceServiceServicer_to_server(kserve_parts.Servicer(plane, extension), server)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{host}:{options.grpc_port}"
    try:
        if options.tls_cert and options.tls_key:
            pair = (options.tls_key.read_bytes(), options.tls_cert.read_bytes())
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise EngineError(f"gRPC cannot listen on {address}; give another --grpc-port, or 0 for any that is free")
    return server, port


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
