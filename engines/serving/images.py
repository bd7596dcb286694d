"""An image as the body of an inference: through the model's queue as every request, and the answer as its bundle says.

POST /v2/models/NAME/infer, Content-Type: image/jpeg, the file as the body
→ {"model_name", "kind", "image": {"width", "height"}, "predictions": [{"label", "number", "score", …}], "prepared",
   "milliseconds"}
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from plainconv.exporter.errors import EngineError, ImageError

from ..predict.geometry import Geometry
from ..predict.images import BYTES_A_PIXEL, opened
from ..predict.predictor import Predictor, Prepared
from .refusals import BadRequestError, DeadlineError, FailedError, TooLargeError
from .requests import InferRequest, WantedOutput
from .service import Room, Service

MOST_PIXELS = 2**25
_DECODERS = 2  # images at a time


def is_image(content_type: str) -> bool:
    """Whether a body of this type is an image."""
    return content_type.lower().startswith("image/")


def _said(predictor: Predictor, outputs: Mapping[str, Any], where: Geometry) -> list[dict[str, Any]]:
    return [each.as_json() for each in predictor.answer(outputs, where)]


class Images:
    """Answers about images."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._decoders = ThreadPoolExecutor(_DECODERS, "images")

    async def answer(self, name: str, version: str, body: bytes | memoryview, room: Room) -> bytes:
        """What model `name` says of the image file that the body is, as JSON. Raises RefusedError."""
        start, seconds = time.monotonic(), self._service.options.timeout_s
        model = self._service.store.model(name)
        if isinstance(model.predictor, str):
            raise BadRequestError(model.predictor)
        predictor = model.predictor
        try:
            async with asyncio.timeout(seconds):
                image = await self._decoded(opened, body, MOST_PIXELS)
                room.grow(image.width * image.height * BYTES_A_PIXEL)
                prepared: Prepared = await self._decoded(predictor.prepare, image, model.profiles, MOST_PIXELS)
        except TimeoutError:
            raise DeadlineError(f"the image was not decoded within {seconds:g} s") from None
        except ImageError as error:
            raise (TooLargeError if error.is_large else BadRequestError)(str(error)) from None
        wanted = tuple(map(WantedOutput, predictor.postprocessing.names))
        left = max(1e-3, seconds - (time.monotonic() - start))
        response = await self._service.infer(
            name, InferRequest(prepared.inputs, wanted, timeout_s=left, version=version)
        )
        try:
            said = await self._decoded(_said, predictor, response.outputs, prepared.where)
        except EngineError as error:
            raise FailedError(str(error)) from None
        height, width = prepared.where.image
        answer = {
            "model_name": name,
            "kind": predictor.postprocessing.kind,
            "image": {"width": width, "height": height},
            "predictions": said,
            "prepared": prepared.said,
            "milliseconds": round((time.monotonic() - start) * 1e3, 3),
        }
        return json.dumps(answer, allow_nan=False).encode()

    async def _decoded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)
