"""The certificate and its key: checked when a server starts, and read anew when their files change."""

import logging
import os
import ssl
from pathlib import Path

from plainconv.exporter.bundle.plain_file import open_plain
from plainconv.exporter.errors import BundleError, EngineError

_log = logging.getLogger("plainconv.serving")
_NO_PASSWORD = "none"
_MOST = 2**20  # bytes
State = tuple[tuple[int, int, int], ...]


class Certificates:
    """A pair that holds: `context` for Python's servers, `pair` (key and certificate) for gRPC's; newest last."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises EngineError where they are no pair that can be read without asking anyone."""
        self._cert, self._key = cert, key
        self._state = self._seen()
        self.context, self.pair = self._read()

    def refresh(self) -> bool:
        """Take a pair that has been replaced; one that does not hold is said once, and the old one stays."""
        state = self._seen()
        if state == self._state:
            return False
        self._state = state
        try:
            self.context, self.pair = self._read()
        except EngineError as error:
            _log.error("%s; the one before stays", error)
            return False
        _log.warning("%s: certificate reloaded", self._cert)
        return True

    def _seen(self) -> State:
        """What tells a file from the one that was there before."""
        try:
            found = [path.stat() for path in (self._cert, self._key)]
        except OSError:
            return ()
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)

    def _read(self) -> tuple[ssl.SSLContext, tuple[bytes, bytes]]:
        try:
            key, cert = (_bytes(path) for path in (self._key, self._cert))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._cert, self._key, password=_NO_PASSWORD)
            return context, (key, cert)
        except (OSError, ValueError, BundleError) as error:  # an SSLError is an OSError
            found = f"{self._cert} and {self._key} cannot be used ({error.args[-1]})"
            raise EngineError(f"{found}; wanted a certificate and its key, without a password, in PEM files") from None


def _bytes(path: Path) -> bytes:
    """What is in a plain file, be it behind links. Raises BundleError where it is another: a pipe has no end."""
    with open_plain(Path(os.path.realpath(path)), path.name) as file:
        return file.read(_MOST)
