"""Why a request gets no result: one sentence for its sender, with the status that each protocol has for it.

A sentence names what the sender sent and what the model takes; never a path, a version or a stack of this program.
"""

import reprlib

from plainconv.exporter.errors import PlainconvError


class RefusedError(PlainconvError):
    """A request that gets no result. `http` and `grpc` are its status in each protocol, `reason` that in metrics."""

    http = 500
    grpc = "INTERNAL"
    reason = "OTHER"


class BadRequestError(RefusedError):
    """What was sent is not what the protocol or the model takes."""

    http, grpc = 400, "INVALID_ARGUMENT"


class UnauthorizedError(RefusedError):
    """The bearer token is missing or wrong."""

    http, grpc = 401, "UNAUTHENTICATED"


class ForbiddenError(RefusedError):
    """What was asked for is not offered."""

    http, grpc = 403, "PERMISSION_DENIED"


class UnknownError(RefusedError):
    """There is no such model, version or route."""

    http, grpc = 404, "NOT_FOUND"


class TakenError(RefusedError):
    """There is one of that name already."""

    http, grpc = 409, "ALREADY_EXISTS"


class SlowError(RefusedError):
    """The request did not arrive in time."""

    http, grpc, reason = 408, "DEADLINE_EXCEEDED", "CANCELED"


class TooLargeError(RefusedError):
    """The request is larger than this server takes."""

    http, grpc, reason = 413, "RESOURCE_EXHAUSTED", "REJECTED"


class TooManyError(RefusedError):
    """The queue is full; the same request may pass later."""

    http, grpc, reason = 429, "RESOURCE_EXHAUSTED", "REJECTED"


class LeftError(RefusedError):
    """The sender is gone: nobody reads this answer."""

    http, grpc, reason = 499, "CANCELLED", "CANCELED"


class FailedError(RefusedError):
    """The model could not be run; what happened is in the server's log."""

    reason = "BACKEND"


class UnavailableError(RefusedError):
    """The model is not loaded, or the server is about to stop."""

    http, grpc, reason = 503, "UNAVAILABLE", "REJECTED"


class VersionError(RefusedError):
    """The request is of a version of HTTP that this server does not speak."""

    http = 505


class DeadlineError(RefusedError):
    """The answer was not there in time."""

    http, grpc, reason = 504, "DEADLINE_EXCEEDED", "CANCELED"


def shown(value: object, width: int = 80) -> str:
    """What a sender sent, as a sentence may repeat it: quoted, its control characters escaped, cut at `width`."""
    text = repr(value[:width]) if isinstance(value, str) else _SHORT.repr(value)
    return text if len(text) <= width else f"{text[:width]}…"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxother = 3, 200  # the rest of it is as short by default: what is long is not looked at
