"""Requests one behind the other, in whatever pieces they arrive."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

h11 = pytest.importorskip("h11")

from plainconv.engines.serving.rest.strict import StrictConnection  # noqa: E402

CHUNKED = b"POST /b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = (
    b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
    CHUNKED + b"1\r\na\r\n0\r\n\r\n",
)
GOOD = (b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n", b"1\r\na\r\n2\r\n\r\n\r\n0\r\na: b\r\n\r\n")
BAD = (b"3\r\nabc\r\n0\r\n\n", b"1\r\na\r\n0\r\na: b\n\r\n")


def read(pieces: list[bytes], answer_behind: int) -> list[bytes]:
    """The bodies of the requests; the first is answered behind so many pieces, at the earliest once it is there."""
    connection, bodies, body = StrictConnection(), [], b""
    for i, piece in enumerate(pieces):
        connection.receive_data(piece)
        while True:
            event: Any = connection.next_event()
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                bodies.append(body)
                body = b""
            elif event in (h11.NEED_DATA, h11.PAUSED):
                if len(bodies) != 1 or connection.their_state is not h11.DONE or i < answer_behind:
                    break
                connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
    return bodies


@st.composite
def in_pieces(draw: st.DrawFn, ends: tuple[bytes, ...]) -> tuple[list[bytes], int]:
    sent = draw(st.sampled_from(FIRST)) + CHUNKED + draw(st.sampled_from(ends))
    cuts = sorted(draw(st.sets(st.integers(1, len(sent) - 1), max_size=6)))
    pieces = [sent[i:k] for i, k in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    return pieces, draw(st.integers(0, len(pieces) - 1))


@given(in_pieces(GOOD))
def test_what_is_sound_is_read(sent: tuple[list[bytes], int]) -> None:
    assert len(read(*sent)) == 2


@given(in_pieces(BAD))
def test_chunks_that_do_not_end_as_they_must_are_refused(sent: tuple[list[bytes], int]) -> None:
    with pytest.raises(h11.RemoteProtocolError, match="a line does not end with CR and LF"):
        read(*sent)
