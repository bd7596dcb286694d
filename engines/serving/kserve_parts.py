"""KServe's SDK with a bundle behind it. The only file that imports KServe.

KServe gives the model's interface and its timings, the data plane, the endpoints and the gRPC servicer. Ours are the
decoding and encoding, which keep a tensor one buffer all the way, and the queue that `predict` puts a request into.
"""

import asyncio
import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plainconv.exporter.bundle import TensorSpec
from plainconv.exporter.version import __version__

from .datatypes import datatype_of
from .grpc import codec as grpc_codec
from .places import NAME
from .refusals import BadRequestError, RefusedError, UnavailableError, UnknownError
from .requests import InferRequest, InferResponse
from .rest import codec as rest_codec
from .service import VERSION, Service, check_version


@contextlib.contextmanager
def _imported_quietly() -> Iterator[None]:
    """KServe's import reads the command line's arguments, and what it imports warns of what it imports."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        sys.argv = arguments


with _imported_quietly():
    from kserve import Model as KServeModel
    from kserve import ModelRepository
    from kserve.metrics import POST_HIST_TIME, PRE_HIST_TIME, PREDICT_HIST_TIME
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
    from kserve.protocol.grpc.servicer import InferenceServicer
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest import v2_datamodels
    from kserve.protocol.rest.v2_endpoints import V2Endpoints

__all__ = [
    "BundlePlane",
    "Endpoints",
    "RepositoryExtension",
    "Servicer",
    "add_GRPCInferenceServiceServicer_to_server",
    "messages",
    "register_metrics",
    "v2_datamodels",
]

SERVER_NAME = "plainconv"
_LARGE_TYPED = 64 * 1024  # bytes that are numbers one by one: more of them than another request should wait for


class BundleModel(KServeModel):  # type: ignore[misc]
    """A model of the store, as KServe calls one: `predict` is a place in its queue."""

    def __init__(self, name: str, service: Service) -> None:
        super().__init__(name)
        self._service = service

    async def healthy(self) -> bool:
        """Whether it is loaded."""
        return self.name in self._service.store.ready()

    def get_input_types(self) -> list[dict[str, Any]]:
        """The bundle's inputs as the protocol describes them."""
        return _described(self._service.store.model(self.name).inputs)

    def get_output_types(self) -> list[dict[str, Any]]:
        """The bundle's outputs."""
        return _described(self._service.store.model(self.name).outputs)

    async def predict(self, payload: InferRequest, headers: Mapping[str, str] | None = None) -> InferResponse:
        """The answer to a request. Raises RefusedError."""
        return await self._service.infer(self.name, payload)


class StoreRepository(ModelRepository):  # type: ignore[misc]
    """KServe's view of the store."""

    def __init__(self, service: Service) -> None:
        super().__init__(models_dir="")
        self._service = service
        self._known: dict[str, BundleModel] = {}

    def get_model(self, name: str) -> BundleModel | None:
        """The model of that name, None where there is none."""
        try:
            self._service.store.model(name)
        except RefusedError:
            self._known.pop(name, None)
            return None
        if name not in self._known:
            self._known[name] = BundleModel(name, self._service)
        return self._known[name]

    def get_models(self) -> dict[str, BundleModel]:
        """Those that are loaded."""
        models = {name: self.get_model(name) for name in self._service.store.ready()}
        return {name: model for name, model in models.items() if model}


class BundlePlane(DataPlane):  # type: ignore[misc]
    """KServe's data plane, with our codec and our version."""

    def __init__(self, service: Service) -> None:
        super().__init__(model_registry=StoreRepository(service))
        self._service = service

    def metadata(self) -> dict[str, Any]:
        """What this server offers."""
        extensions = ["binary_tensor_data", "model_configuration", "statistics"]
        extensions += ["model_repository"] if self._service.options.repository else []
        extensions += ["system_shared_memory"] if self._service.options.shared_memory else []
        return {"name": SERVER_NAME, "version": __version__, "extensions": extensions}

    async def ready(self) -> bool:
        """Whether requests are taken."""
        return self._service.ready()

    async def get_model(self, name: str) -> BundleModel:
        """The model of that name. Raises UnknownError and UnavailableError."""
        self._service.store.model(name)
        model = self.model_registry.get_model(name)
        if model is None:
            raise UnavailableError("the model was unloaded just now")
        return model  # type: ignore[no-any-return]

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """Whether that model is loaded. Raises UnknownError where there is none."""
        try:
            self._service.store.model(model_name)
        except UnavailableError:
            return False
        return self._service.ready()

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """The model's inputs and outputs, an open axis as -1. Raises UnknownError and UnavailableError."""
        await self.get_model(model_name)
        platform = self._service.store.model(model_name).platform
        return {**await super().model_metadata(model_name), "versions": [VERSION], "platform": platform}

    def decode(
        self, body: memoryview, headers: Mapping[str, str], protocol_version: str = "", model_name: str | None = None
    ) -> tuple[InferRequest, dict[str, Any]]:
        """The request in a REST body. Raises BadRequestError."""
        length = rest_codec.header_length(headers.get(rest_codec.HEADER_LENGTH), len(body))
        return rest_codec.decode(body, length), {}

    def encode(
        self, model_name: str, response: InferResponse, headers: Mapping[str, str], req_attributes: Mapping[str, Any]
    ) -> tuple[list[bytes | memoryview], dict[str, str]]:
        """The pieces of a REST answer, and its headers."""
        pieces, length = rest_codec.encode(response)
        if length is None:
            return pieces, {"content-type": "application/json"}
        return pieces, {"content-type": "application/octet-stream", rest_codec.HEADER_LENGTH: str(length)}


class RepositoryExtension(ModelRepositoryExtension):  # type: ignore[misc]
    """Loading and unloading by request, where the server allows it."""

    def __init__(self, plane: BundlePlane, service: Service) -> None:
        super().__init__(model_registry=plane.model_registry)
        self._service = service

    async def index(self, filter_ready: bool | None = False) -> list[dict[str, str]]:
        """Every model there is. Raises ForbiddenError where that is not offered."""
        self._service.check_repository()
        rows = await asyncio.to_thread(self._service.store.index)
        return [dict(row) for row in rows if not filter_ready or row["state"] == "READY"]

    async def load(self, model_name: str) -> dict[str, Any]:
        """Load a model. Raises RefusedError."""
        await self._service.load(model_name)
        return {"name": model_name, "load": True}

    async def unload(self, model_name: str) -> dict[str, Any]:
        """Unload a model; one that is not loaded is unloaded. Raises RefusedError."""
        try:
            await self._service.unload(model_name)
        except UnknownError:
            if not NAME.fullmatch(model_name):
                raise
        return {"name": model_name, "unload": True}


class Endpoints(V2Endpoints):  # type: ignore[misc]
    """KServe's REST endpoints, with the one version that a model has."""

    async def model_metadata(self, model_name: str, model_version: str = "") -> Any:
        """What the model takes and gives."""
        check_version(model_version)
        return await super().model_metadata(model_name)

    async def model_ready(self, model_name: str, model_version: str = "") -> Any:
        """Whether it is loaded. Raises UnavailableError where it is not, BadRequestError where there is none."""
        try:
            check_version(model_version)
            is_ready = await self.dataplane.model_ready(model_name)
        except UnknownError as error:  # Triton's answer, and so what its clients expect
            raise BadRequestError(str(error)) from None
        if not is_ready:
            raise UnavailableError("the model is not loaded")
        return v2_datamodels.ModelReadyResponse(name=model_name, ready=True)

    async def ready(self) -> Any:
        """Whether requests are taken. Raises UnavailableError where they are not."""
        if not await self.dataplane.ready():
            raise UnavailableError("the server is not ready")
        return v2_datamodels.ServerReadyResponse(ready=True)


class Servicer(InferenceServicer):  # type: ignore[misc]
    """KServe's gRPC servicer, with our codec."""

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer a request. Raises RefusedError."""
        remaining_s = context.time_remaining()
        if request.raw_input_contents or request.ByteSize() <= _LARGE_TYPED:
            payload = grpc_codec.decode(request, remaining_s)
        else:
            payload = await asyncio.to_thread(grpc_codec.decode, request, remaining_s)
        response, _ = await self._data_plane.infer(request.model_name, payload, {})
        answer = messages.ModelInferResponse()
        if payload.binary or sum(array.nbytes for array in response.outputs.values()) <= _LARGE_TYPED:
            return grpc_codec.encode(response, answer)
        return await asyncio.to_thread(grpc_codec.encode, response, answer)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """What the model takes and gives."""
        check_version(request.version)
        return messages.ModelMetadataResponse(**await self._data_plane.model_metadata(request.name))

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether it is loaded; one that there is not is not."""
        try:
            check_version(request.version)
            return await super().ModelReady(request, context)
        except UnknownError:
            return messages.ModelReadyResponse(ready=False)


def register_metrics(registry: Any) -> None:
    """Show KServe's own timings of `preprocess`, `predict` and `postprocess` beside ours."""
    for histogram in (PRE_HIST_TIME, PREDICT_HIST_TIME, POST_HIST_TIME):
        registry.register(histogram)


def _described(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "datatype": datatype_of(spec.dtype),
            "shape": [-1 if isinstance(axis, str) else axis for axis in spec.shape],
        }
        for spec in specs
    ]
