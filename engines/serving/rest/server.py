"""The HTTP server: KServe's endpoints and ours as routes, behind the guard. The only file that imports a web framework.

A route is (path, method, what answers); the page for people is a few more of them.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import described, kserve_parts
from ..access_log import AccessLog, note
from ..auth import Bearer
from ..images import Images, is_image
from ..metrics import CONTENT_TYPE
from ..options import ServeOptions
from ..page import routes as page
from ..refusals import FailedError, RefusedError, SlowError
from ..service import Service
from ..tls import Certificates
from .acceptor import Acceptor
from .body import Receive, Scope, Send, content_length, headers_of, peer_of, read_body, unless_left
from .codec import HEADER_LENGTH, header_length
from .coding import LEAST, coding_of, compressed, decompressed, wanted_coding
from .control import Control, Route
from .guard import OPEN_PATHS, Guard, refusal
from .protocol import LimitedProtocol

_LARGE_JSON = 64 * 1024  # decoding that takes longer than another request should wait
_SMALL = 16 * 1024  # to copy is less than to send once more
_BYTES_A_NUMBER = 8  # in JSON
_CODECS = 2  # large ones at a time: their objects take many times the memory of their text
_KEEP_ALIVE_S = 65  # longer than proxies keep an idle connection


class Pieces:
    """An answer in pieces, large ones never copied; they count as pending until they are sent, in so much time."""

    def __init__(self, pieces: Sequence[bytes | memoryview], headers: dict[str, str], service: Service) -> None:
        self._pieces, self._headers, self._service = pieces, headers, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Raises SlowError where its reader does not take it."""
        length, timeout_s = sum(len(piece) for piece in self._pieces), self._service.options.timeout_s
        pieces = self._pieces if length > _SMALL else [b"".join(self._pieces)]
        headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in self._headers.items()]
        headers.append((b"content-length", b"%d" % length))
        with self._service.pending(peer=peer_of(scope)) as room:
            room.hold(length)
            try:
                async with asyncio.timeout(timeout_s):
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    for index, piece in enumerate(pieces):
                        more = index + 1 < len(pieces)
                        await send({"type": "http.response.body", "body": piece, "more_body": more})
            except TimeoutError:
                raise SlowError(f"the answer was not taken within {timeout_s:g} s") from None


class Inference:
    """The endpoints of a model beside KServe's: inference, its configuration and what was counted; the metrics."""

    def __init__(self, plane: Any, service: Service) -> None:
        self._plane, self._service = plane, service
        self._codec = ThreadPoolExecutor(_CODECS, "codec")
        self._images = Images(service)

    def routes(self) -> list[Route]:
        """The table."""
        model = "/v2/models/{model_name}"
        return [
            (f"{model}/infer", "POST", self.infer),
            (f"{model}/versions/{{model_version}}/infer", "POST", self.infer),
            ("/v2/models/stats", "GET", self.statistics),
            *((f"{path}/config", "GET", self.config) for path in (model, f"{model}/versions/{{model_version}}")),
            *((f"{path}/stats", "GET", self.statistics) for path in (model, f"{model}/versions/{{model_version}}")),
            ("/metrics", "GET", self.metrics),
        ]

    async def infer(self, request: Request) -> Pieces:
        """One inference."""
        name, headers, options = request.path_params["model_name"], headers_of(request.scope), self._service.options
        length, coding = content_length(headers, options.max_body), coding_of(headers)
        with self._service.pending(peer=peer_of(request.scope)) as room:
            most = options.max_body if length is None or coding else length
            json_length = header_length(headers.get(HEADER_LENGTH), most)
            body = await read_body(
                request.receive,
                length,
                limit=options.max_body,
                timeout_s=options.timeout_s,
                aligned_at=json_length or 0,
                grow=room.grow,
            )
            note(bytes_in=len(body))
            if coding:
                body = await self._in_thread(decompressed, body, coding, options.max_body)
                room.grow(len(body))
            if is_image(headers.get("content-type", "")):
                version = request.path_params.get("model_version", "")
                answer = await unless_left(self._images.answer(name, version, body, room), request.receive)
                return Pieces([answer], {"content-type": "application/json"}, self._service)
            size = len(body) if json_length is None else json_length
            payload, _ = await self._by_size(size, self._plane.decode, body, headers)
            payload = replace(payload, version=request.path_params.get("model_version", ""))
            response, _ = await unless_left(self._plane.infer(name, payload, headers), request.receive)
            size = sum(array.size for name, array in response.outputs.items() if name not in response.binary)
            pieces, sent = await self._by_size(size * _BYTES_A_NUMBER, self._plane.encode, name, response, headers, {})
            wanted = wanted_coding(headers)
            if wanted and sum(map(len, pieces)) > LEAST:
                pieces = await self._in_thread(compressed, pieces, wanted)
                sent |= {"content-encoding": wanted, "vary": "accept-encoding"}
        return Pieces(pieces, sent, self._service)

    async def _by_size(self, size: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """The outcome of a function on so many bytes of JSON: of many in a thread, as others would wait for it."""
        if size <= _LARGE_JSON:
            return function(*arguments)
        return await self._in_thread(function, *arguments)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._codec, function, *arguments)

    async def config(self, request: Request) -> Response:
        """The model as Triton's configuration describes one."""
        return JSONResponse(described.config(self._service, *_model_of(request)))

    async def statistics(self, request: Request) -> Response:
        """What was counted of a model, or of all."""
        return JSONResponse(described.statistics(self._service, *_model_of(request)))

    async def metrics(self, request: Request) -> Response:
        """What was counted."""
        store = self._service.store
        return Response(self._service.metrics.text(store.waiting, store.ready), media_type=CONTENT_TYPE)


def _model_of(request: Request) -> tuple[str, str]:
    return request.path_params.get("model_name", ""), request.path_params.get("model_version", "")


def application(service: Service, bearer: Bearer, log: AccessLog, more: Sequence[Route] = ()) -> Guard:
    """The ASGI application: KServe's endpoints, ours, and `more` routes, guarded."""
    plane = kserve_parts.BundlePlane(service)
    repository = kserve_parts.RepositoryExtension(plane, service)
    endpoints = kserve_parts.Endpoints(plane, repository)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for path, method, endpoint in (*Inference(plane, service).routes(), *Control(repository, service).routes(), *more):
        app.add_route(path, endpoint, methods=[method])
    data = kserve_parts.v2_datamodels
    reads = ["GET", "HEAD"]
    app.add_api_route("/v2", endpoints.metadata, methods=reads, response_model=data.ServerMetadataResponse)
    app.add_api_route("/v2/health/live", endpoints.live, methods=reads, response_model=data.ServerLiveResponse)
    app.add_api_route("/v2/health/ready", endpoints.ready, methods=reads, response_model=data.ServerReadyResponse)
    app.add_api_route("/v2/models", endpoints.models, methods=reads, response_model=data.ListModelsResponse)
    for path in ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"):
        app.add_api_route(path, endpoints.model_metadata, methods=reads, response_model=data.ModelMetadataResponse)
        app.add_api_route(f"{path}/ready", endpoints.model_ready, methods=reads, response_model=data.ModelReadyResponse)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    app.add_exception_handler(RequestValidationError, _not_valid)
    return Guard(app, service, bearer, log, OPEN_PATHS | page.FILES.keys())


class Server(uvicorn.Server):
    """uvicorn, which leaves signals and connections to us."""

    def __init__(self, config: uvicorn.Config, acceptor: Acceptor) -> None:
        super().__init__(config)
        self.acceptor = acceptor

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured: `running` decides what a signal does."""
        yield

    async def startup(self, sockets: Any = None) -> None:
        """Take connections."""
        self.servers = []
        self.acceptor.start(lambda: LimitedProtocol(config=self.config, server_state=self.server_state, app_state={}))
        self.started = True

    def stop_listening(self) -> None:
        """Take no further connection; those that are there go on."""
        self.acceptor.stop()


def server_of(app: Guard, options: ServeOptions, listener: socket.socket, certificates: Certificates | None) -> Server:
    """The server of `app`, on a socket that is bound."""
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,  # `running` has waited before
    )
    return Server(config, Acceptor(listener, options.max_connections, certificates))


def bound(host: str, port: int) -> socket.socket:
    """A socket that is bound there. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


async def _refused(request: Request, error: Any) -> Response:
    return _response(error.http, str(error))


async def _failed(request: Request, error: Exception) -> Response:
    """The answer to a fault; the guard, which sees the error too, writes it to the log."""
    return _response(FailedError.http, "the server failed on this request")


async def _no_route(request: Request, error: Any) -> Response:
    status = error.status_code
    known = {404: "there is nothing at this path; see /v2/models", 405: "this path takes another method"}
    response = _response(status, known.get(status, "the request cannot be answered"))
    response.headers.update(error.headers or {})  # which methods it takes
    return response


async def _not_valid(request: Request, error: Any) -> Response:
    return _response(400, "the request is not what this path takes")


def _response(status: int, sentence: str) -> Response:
    _, headers, body = refusal(status, sentence)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})
