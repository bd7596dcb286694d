"""The bearer token: compared in constant time, and never written anywhere."""

import hashlib
import hmac
import re
from pathlib import Path

from plainconv.exporter.errors import EngineError

from .refusals import UnauthorizedError

_TOKEN = re.compile(r"[\x21-\x7e]{16,4096}")
_MOST = 8192


class Bearer:
    """Checks the Authorization of a request. An empty token lets everyone in."""

    def __init__(self, token: str) -> None:
        self._digest = _digest(token.encode()) if token else None

    def check(self, authorization: bytes | str | None) -> None:
        """Raise UnauthorizedError where `authorization` is not "Bearer TOKEN"."""
        if self._digest is None:
            return
        given = authorization.encode() if isinstance(authorization, str) else authorization or b""
        scheme, _, token = given.partition(b" ")
        same = hmac.compare_digest(_digest(token.strip()), self._digest)
        if scheme.lower() != b"bearer" or not same:
            raise UnauthorizedError("the bearer token is missing or wrong; send it as Authorization: Bearer TOKEN")


def token_of_file(path: Path) -> str:
    """The token that a file holds. Raises EngineError."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST).decode("ascii", "replace").strip()
    except OSError as error:
        raise EngineError(f"{path}: the token cannot be read ({error.strerror})") from None
    if not _TOKEN.fullmatch(text):
        raise EngineError(f"{path} holds no token; wanted 16 to 4096 visible ASCII characters on one line")
    return text


def _digest(token: bytes) -> bytes:
    """Of one length whatever the token, so that not even that is told by the time a comparison takes."""
    return hashlib.sha256(token).digest()
