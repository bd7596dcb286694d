"""The endpoints that change what a server has, where it offers that: models of the repository, regions of memory.

POST /v2/repository/index, …/models/NAME/load, …/models/NAME/unload
POST /v2/systemsharedmemory/region/NAME/register    {"key": "/frames", "offset": 0, "byte_size": 602112}
POST /v2/systemsharedmemory/unregister, …/region/NAME/unregister
GET  /v2/systemsharedmemory/status, …/region/NAME/status
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..options import MIB
from ..refusals import BadRequestError
from ..service import Service
from .body import content_length, headers_of, read_body
from .codec import object_of
from .coding import refuse_coding

Route = tuple[str, str, Callable[[Request], Awaitable[Any]]]
_MOST = MIB  # of a body


class Control:
    """The endpoints."""

    def __init__(self, repository: Any, service: Service) -> None:
        self._repository, self._service = repository, service

    def routes(self) -> list[Route]:
        """The table."""
        shared = "/v2/systemsharedmemory"
        region = f"{shared}/region/{{region}}"
        return [
            ("/v2/repository/index", "POST", self.index),
            ("/v2/repository/models/{model_name}/load", "POST", self.load),
            ("/v2/repository/models/{model_name}/unload", "POST", self.unload),
            (f"{region}/register", "POST", self.register),
            *((f"{path}/unregister", "POST", self.unregister) for path in (shared, region)),
            *((f"{path}/status", "GET", self.status) for path in (shared, region)),
        ]

    async def index(self, request: Request) -> Response:
        """The models there are."""
        self._service.check_repository()
        asked = await self._object(request)
        rows = await self._repository.index(asked.get("ready") is True)
        return JSONResponse(rows)

    async def load(self, request: Request) -> Response:
        """Load a model."""
        self._service.check_repository()
        if (await self._object(request)).get("parameters"):
            what = "loading takes no parameters here"
            raise BadRequestError(f"{what}: a model is what its bundle says; leave them out")
        return JSONResponse(await self._repository.load(request.path_params["model_name"]))

    async def unload(self, request: Request) -> Response:
        """Unload a model."""
        self._service.check_repository()
        await self._object(request)
        return JSONResponse(await self._repository.unload(request.path_params["model_name"]))

    async def register(self, request: Request) -> Response:
        """Register a region."""
        regions = self._service.regions()
        asked = await self._object(request)
        regions.register(request.path_params["region"], asked.get("key"), asked.get("offset"), asked.get("byte_size"))
        return JSONResponse({})

    async def unregister(self, request: Request) -> Response:
        """Unregister a region, or all."""
        regions = self._service.regions()
        await self._object(request)
        regions.unregister(request.path_params.get("region", ""))
        return JSONResponse({})

    async def status(self, request: Request) -> Response:
        """What is registered."""
        return JSONResponse(self._service.regions().status(request.path_params.get("region", "")))

    async def _object(self, request: Request) -> dict[str, Any]:
        headers, timeout = headers_of(request.scope), self._service.options.timeout_s
        refuse_coding(headers)
        length = content_length(headers, _MOST)
        body = await read_body(request.receive, length, limit=_MOST, timeout_s=timeout)
        return object_of(body, "the request")
