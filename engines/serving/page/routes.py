"""The page for people at `/`: its files, the state that it polls, and the classes of an image.

    GET /                             the page, and GET /ui/FILE its style, script and icon: the same for everyone
    GET /ui/state                     the models and what was counted, see `page_state`
    POST /ui/models/NAME/classify     an image file as the body -> {"top": [{"class", "name", "score", "share"}], …}

An image goes the way of every request, through the model's queue. Plain ASGI: no web framework here.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..access_log import note
from ..options import MIB
from ..refusals import DeadlineError
from ..requests import InferRequest, WantedOutput
from ..rest.body import Receive, Scope, Send, content_length, headers_of, peer_of, read_body, unless_left
from ..rest.coding import refuse_coding
from ..service import Room, Service
from . import images as page_images
from . import state as page_state

if TYPE_CHECKING:
    from starlette.requests import Request

Route = tuple[str, str, Callable[["Request"], Awaitable[Any]]]
FILES: Mapping[str, tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/ui/page.css": ("page.css", "text/css; charset=utf-8"),
    "/ui/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/ui/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""What a browser gets without the token, by path: it tells nothing of this server."""
MOST_IMAGE = 20 * MIB
_FOLDER = Path(__file__).with_name("static")
_DECODERS = 2  # images at a time
_HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Body:
    """An answer of that type, which no browser keeps, and which nothing but this server's own files acts on."""

    def __init__(self, body: bytes, content_type: str) -> None:
        self._body, self._type = body, content_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = {**_HEADERS, "content-type": self._type, "content-length": str(len(self._body))}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": encoded})
        body = b"" if scope["method"] == "HEAD" else self._body
        await send({"type": "http.response.body", "body": body})


def routes(service: Service) -> list[Route]:
    """The rows of the table of routes."""
    page = Page(service)
    return [
        *((path, "GET", _file(name, content_type)) for path, (name, content_type) in FILES.items()),
        ("/ui/state", "GET", page.state),
        ("/ui/models/{model_name}/classify", "POST", page.classify),
    ]


class Page:
    """What the page asks of a server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._decoders = ThreadPoolExecutor(_DECODERS, "page-images")

    async def state(self, request: "Request") -> Body:
        """The models and what was counted."""
        return _json(await asyncio.to_thread(page_state.state, self._service))

    async def classify(self, request: "Request") -> Body:
        """The top classes of the image that the body is. Raises RefusedError."""
        start, seconds = time.monotonic(), self._service.options.timeout_s
        name, limit = request.path_params["model_name"], min(MOST_IMAGE, self._service.options.max_body)
        model = self._service.store.model(name)
        wanted = page_images.image_input(model.preprocessing, model.inputs, model.outputs, model.profiles)
        refuse_coding(headers_of(request.scope))
        length = content_length(headers_of(request.scope), limit)
        with self._service.pending(peer=peer_of(request.scope)) as room:
            body = await read_body(request.receive, length, limit=limit, timeout_s=seconds, grow=room.grow)
            note(bytes_in=len(body))
            work = self._classified(name, wanted, body, seconds, room)
            answer = await unless_left(work, request.receive)
        names = model.classes
        for row in answer["top"]:
            row["name"] = names[row["class"]] if len(names) == answer["classes"] else None
        return _json({**answer, "milliseconds": round((time.monotonic() - start) * 1e3, 3)})

    async def _classified(
        self, name: str, wanted: page_images.ImageInput, body: memoryview, seconds: float, room: Room
    ) -> dict[str, Any]:
        start = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                image = await self._decoded(page_images.open_image, body)
                room.grow(image.width * image.height * page_images.BYTES_A_PIXEL)
                array, how = await self._decoded(page_images.prepare, image, wanted)
        except TimeoutError:
            raise DeadlineError(f"the image was not decoded within {seconds:g} s") from None
        left = max(1e-3, seconds - (time.monotonic() - start))
        request = InferRequest({wanted.name: array}, (WantedOutput(wanted.output),), timeout_s=left)
        response = await self._service.infer(name, request)
        scores = response.outputs[wanted.output]
        top, is_probability = page_images.top_classes(scores)
        return {
            "top": [{"class": each.number, "score": each.score, "share": each.share} for each in top],
            "classes": scores.shape[1],
            "output": wanted.output,
            "probabilities": is_probability,
            "prepared": how,
        }

    async def _decoded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)


def _file(name: str, content_type: str) -> Callable[["Request"], Awaitable[Body]]:
    body = Body((_FOLDER / name).read_bytes(), content_type)

    async def sent(request: "Request") -> Body:
        return body

    return sent


def _json(value: Mapping[str, Any]) -> Body:
    return Body(json.dumps(value, allow_nan=False).encode(), "application/json")
