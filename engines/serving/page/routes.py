"""The page for people at `/`: its files, and the state that it polls.

    GET /             the page, and GET /ui/FILE its style, script and icon: the same for everyone
    GET /ui/state     the models and what was counted, see `page_state`
    GET /ui/reports/NAME    a model's report, see `reports`

What it asks of a model goes to `/v2/models/NAME/infer`, as all do. Plain ASGI: no web framework here.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..refusals import UnknownError, shown
from ..rest.body import Receive, Scope, Send
from ..service import Service
from . import reports
from . import state as page_state

if TYPE_CHECKING:
    from starlette.requests import Request

Route = tuple[str, str, Callable[["Request"], Awaitable[Any]]]
FILES: Mapping[str, tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/ui/page.css": ("page.css", "text/css; charset=utf-8"),
    "/ui/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/ui/answers.js": ("answers.js", "text/javascript; charset=utf-8"),
    "/ui/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""What a browser gets without the token, by path: it tells nothing of this server."""
_FOLDER = Path(__file__).with_name("static")
_OF_THE_PAGE = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_OF_A_REPORT = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
"""It is whatever file lies there: no script of it runs, it asks for nothing, and shares nothing with the page."""
_HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Body:
    """An answer of that type, which no browser keeps, and which nothing but what `policy` names acts on."""

    def __init__(self, body: bytes, content_type: str, policy: str = _OF_THE_PAGE) -> None:
        self._body, self._own = body, {"content-type": content_type, "content-security-policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = {**_HEADERS, **self._own, "content-length": str(len(self._body))}
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
        ("/ui/reports/{model_name}", "GET", page.report),
    ]


class Page:
    """What the page asks of a server."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def state(self, request: "Request") -> Body:
        """The models and what was counted."""
        return _json(await asyncio.to_thread(page_state.state, self._service))

    async def report(self, request: "Request") -> Body:
        """The report of a model. Raises UnknownError where there is none, and as `Store.model` does."""
        name = request.path_params["model_name"]
        text = await asyncio.to_thread(reports.report_of, self._service.store.model(name))
        if text is None:
            raise UnknownError(
                f"there is no report of model {shown(name)} as it is now; write one beside its bundle: "
                "exporter report BUNDLE -o BUNDLE.html"
            )
        return Body(text, "text/html; charset=utf-8", _OF_A_REPORT)


def _file(name: str, content_type: str) -> Callable[["Request"], Awaitable[Body]]:
    body = Body((_FOLDER / name).read_bytes(), content_type)

    async def sent(request: "Request") -> Body:
        return body

    return sent


def _json(value: Mapping[str, Any]) -> Body:
    return Body(json.dumps(value, allow_nan=False).encode(), "application/json")
