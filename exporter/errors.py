"""The errors a user can cause or meet. Every room may import this file; it imports nothing.

One base class, so that the command line prints any of them in one line, without a traceback. A message gives what was
found, what was wanted and the remedy, in that order.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class PlainconvError(Exception):
    """Bad input: what was found, what was wanted and the remedy, in one line; `exit_code` is the command line's."""

    exit_code = 2


class PlainconvWarning(UserWarning):
    """Something the user should know that stops nothing; the command line prints it in one line."""


class SourceError(PlainconvError):
    """The SOURCE of a network cannot be resolved or called, or its input shape does not fit it."""


class CheckpointError(PlainconvError):
    """A checkpoint cannot be read, or does not belong to the network."""


class ReparamError(PlainconvError):
    """A network cannot be traced or reparameterized as it stands (train mode, for one)."""


class ExportError(PlainconvError):
    """A network cannot be written as ONNX, or an ONNX file cannot be read."""


class BundleError(PlainconvError):
    """A bundle cannot be written, or what is on disk is not the bundle its manifest describes."""


class PlanError(PlainconvError):
    """A plan of parts cannot be read, does not fit its network, or does not pay."""


class EngineError(PlainconvError):
    """An engine cannot be built, loaded or run."""


class ImageError(PlainconvError):
    """An image cannot be taken: it is none, is damaged, too large (`is_large`), or of another size than is wanted."""

    def __init__(self, message: str, *, is_large: bool = False) -> None:
        super().__init__(message)
        self.is_large = is_large


class CheckFailedError(PlainconvError):
    """The program did its work and the result did not hold: a parity beyond its tolerance, an accuracy that moved."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """The first line of what someone else's error says, without its full stop; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def write_refused(target: object, refusal: type[PlainconvError]) -> Iterator[None]:
    """Say in one line, as a `refusal`, why the file system does not let `target` be written."""
    try:
        yield
    except OSError as error:
        raise refusal(f"{target}: cannot be written ({error.strerror}); choose another place") from None


def escaped(text: str) -> str:
    """Text of a stranger on one line, without its control characters."""
    return "".join(f"\\x{ord(c):02x}" if c < " " or c == "\x7f" else c for c in text)


def one_line(error: BaseException, width: int = 300) -> str:
    """The whole message of someone else's error on one line, cut at `width` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= width else text[: width - 1] + "…"
