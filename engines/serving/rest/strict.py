"""HTTP/1.1 as this server reads it: h11, bounded in every state, and with no latitude where two readers could differ.

Refused beside what h11 refuses (which never holds more than one head, chunk line or trailer): versions but 1.0 and
1.1, lines that end otherwise than they must or go on in another, chunks under 1.0 or beside a length, what may stand
once and is there twice, a length that is not written as numbers are, chunks whose lines and trailers outweigh what they
carry. An absolute target is read as its path, in which an escaped slash is no slash.
"""

import re
from typing import Any

import h11

from ..refusals import BadRequestError, RefusedError, VersionError, shown

MOST_HEAD = 64 * 1024
MOST_HEADERS = 128
MOST_FRAMING = 4 * 1024  # of chunk lines and trailers, and as much again as the chunks carry
_FREE_CHUNKS, _LEAST_CHUNK = 1024, 64  # so many may be as small as they like; then their mean is at least that
_ONCE = (
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"expect",
    b"host",
    b"inference-header-content-length",
    b"transfer-encoding",
)
_LINES = re.compile(rb"(?:[\t\x20-\x7e\x80-\xff]*\r\n)+")
_FOLDED = re.compile(rb"\r\n[\t ]")
_NO_ESCAPE = re.compile(rb"%(?=2[Ff]|0[Aa])")  # of what would divide a path, or end it
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rb'(?:%b|"(?:[\t\x20!\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*")' % _TOKEN
_CHUNK = re.compile(rb"(?:\r\n)?[0-9A-Fa-f]+(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*%b)?)*\r\n" % (_TOKEN, _VALUE))
_FRAMING = re.compile(rb"^(content-length|transfer-encoding):", re.IGNORECASE | re.MULTILINE)
_FIELD = re.compile(rb"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\r?$", re.MULTILINE)
_LENGTH = re.compile(rb"0|[1-9][0-9]*")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)([/?].*)?", re.IGNORECASE)
_LONG_HEAD = f"the headers are longer than {MOST_HEAD} bytes"
_FRAMED = "the chunks' lines and trailers are longer than what they carry"


class StrictConnection(h11.Connection):
    """The server's side of a connection. What `next_event` raises is h11's; `refusal` says it to the sender."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MOST_HEAD)
        self.refusal: RefusedError | None = None
        self._received = self._carried = self._chunks = 0  # of the body under way
        self._is_chunked, self._lines = False, b""  # what was read of chunk lines and trailers since the last data

    def receive_data(self, data: bytes) -> None:
        """Take what arrived."""
        self._received += len(data)
        super().receive_data(data)

    def next_event(self) -> Any:
        """h11's next event. Raises h11.RemoteProtocolError."""
        was_idle = self.their_state is h11.IDLE
        before = self.trailing_data[0] if was_idle or self._is_chunked else b""
        while was_idle and before.startswith(b"\r\n"):  # an empty line before a request is passed over
            self._receive_buffer.maybe_extract_at_most(2)
            before = before[2:]
        if was_idle and before == b"\r":
            return h11.NEED_DATA
        try:
            event = super().next_event()
            read = before[: len(before) - len(self.trailing_data[0])]
            if isinstance(event, h11.Request):
                self._begin(event, read)
                self._received, self._carried, self._chunks = len(before) - len(read), 0, 0
            elif self._is_chunked:
                self._check_chunks(event, read)
            if isinstance(event, h11.Data):
                self._carried += len(event.data)
                self._chunks += event.chunk_start
                if self._chunks > _FREE_CHUNKS + self._carried // _LEAST_CHUNK:
                    raise BadRequestError(f"the chunks carry less than {_LEAST_CHUNK} bytes each; send larger ones")
            elif isinstance(event, h11.EndOfMessage) or (event is h11.NEED_DATA and self.their_state is h11.SEND_BODY):
                framing = self._received - self._carried - len(self.trailing_data[0])
                if framing > MOST_FRAMING + self._carried:
                    raise BadRequestError(_FRAMED)
        except RefusedError as error:
            self.refusal = error
            raise h11.RemoteProtocolError(str(error)) from None
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                self.refusal = BadRequestError(_LONG_HEAD if was_idle else _FRAMED)
            raise
        return event

    def _check_chunks(self, event: Any, read: bytes) -> None:
        """Raise BadRequestError where a chunk's line, or a trailer, is not as lines must be."""
        data = len(event.data) if isinstance(event, h11.Data) else 0
        self._lines += read[: len(read) - data]
        if self._lines and (data or isinstance(event, h11.EndOfMessage)):
            line = _CHUNK.match(self._lines)
            trailers = self._lines[line.end() :] if line else b""
            if line is None or _FRAMING.search(trailers):
                raise BadRequestError("the body is not in chunks as transfer-encoding says")
            if trailers:
                _check_lines(trailers)
            self._lines = b""

    def _begin(self, request: h11.Request, head: bytes) -> None:
        """Raise RefusedError where a head is not as it must be."""
        if request.http_version not in (b"1.0", b"1.1"):
            raise VersionError("the request is of another version of HTTP, wanted 1.1")
        _check_lines(head)
        fields = [(name.lower(), value) for name, value in _FIELD.findall(head)]
        if len(head) > MOST_HEAD:
            raise BadRequestError(_LONG_HEAD)
        if len(fields) > MOST_HEADERS:
            raise BadRequestError(f"the request has {len(fields)} headers, wanted up to {MOST_HEADERS}")
        names = [name for name, _ in fields]
        twice = next((name for name in _ONCE if names.count(name) > 1), None)
        if twice:
            raise BadRequestError(f"the header {twice.decode()} is there twice")
        found = dict(fields)
        self._is_chunked = b"transfer-encoding" in found
        length, chunked = found.get(b"content-length"), self._is_chunked
        if length is not None and not _LENGTH.fullmatch(length):
            said = shown(length.decode("latin-1"))
            raise BadRequestError(f"content-length is {said}, wanted a whole number without leading zeros")
        if chunked and (length is not None or request.http_version == b"1.0"):
            beside = "under HTTP/1.0" if length is None else "beside a content-length"
            raise BadRequestError(f"transfer-encoding {beside}: where the request ends is not certain")
        if not _HOST.fullmatch(found.get(b"host", b"")):
            raise BadRequestError("the header host is no name of a host")
        target, absolute = request.target, _ABSOLUTE.fullmatch(request.target)
        if absolute and _HOST.fullmatch(absolute[1]):
            target = absolute[2] or b"/"
            target = target if target.startswith(b"/") else b"/" + target
        elif not target.startswith(b"/"):
            raise BadRequestError("the request's target is no path")
        object.__setattr__(request, "target", _NO_ESCAPE.sub(b"%25", target))


def _check_lines(lines: bytes) -> None:
    """Raise BadRequestError where lines do not end as they must, hold what none may, or go on in another."""
    if not _LINES.fullmatch(lines):
        raise BadRequestError("a line does not end with CR and LF, or has what no line may have")
    if _FOLDED.search(lines):
        raise BadRequestError("a header goes on in another line")
