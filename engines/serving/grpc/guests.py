"""Who is connected over gRPC, and who is cut off: whose headers have no end, or who holds the places of all others.

gRPC's library has no option for either and keeps its sockets to itself: so they are looked for among the files of this
process (Linux; elsewhere nobody is cut off).
"""

import asyncio
import collections
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from ..refusals import TooManyError
from ..service import KEPT

MOST_IDLE = 10 * 2**20  # received beside messages: more than begins as many calls as a connection may have at a time
_LOOK_S, _REST = 0.2, 50  # so long, and so many times as long as a look takes, between two of them
_FILES = "/proc/self/fd"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what has not arrived is not waited for
_RECEIVED = (128, struct.Struct("=Q"))  # tcp_info's tcpi_bytes_received


class Guests:
    """The connections of a port, by their peers as gRPC names them. On one event loop."""

    def __init__(self, most: int, most_message: int, most_messages: int) -> None:
        """So many connections, and calls, there may be, three quarters of them of one address.

        A message has up to `most_message` bytes, all that are in the server `most_messages`.
        """
        self._share, self._most_message = most - most // KEPT, most_message
        self._most_messages = most_messages - most_messages // KEPT
        self._calls: collections.Counter[str] = collections.Counter()
        self._calls_of: collections.Counter[str] = collections.Counter()
        self._moved: set[str] = set()
        self._received: dict[str, int] = {}  # bytes, when a peer's last message was there
        self._peers: dict[str, str] = {}  # by file; "" of one that is no connection of this port

    @contextmanager
    def call(self, peer: str, *, large: bool = True) -> Iterator[None]:
        """Count a call, whose messages may be large or not. Raises TooManyError where its sender has too many."""
        address = address_of(peer)
        if self._calls_of[address] >= self._share:
            raise TooManyError("the server has as many requests of this address as it takes; try again later")
        self._calls[peer] += large
        self._calls_of[address] += 1
        self.moved(peer)
        try:
            yield
        finally:
            self.moved(peer)
            for count, key, one in ((self._calls, peer, large), (self._calls_of, address, True)):
                count[key] -= one
                if not count[key]:
                    del count[key]

    def moved(self, peer: str) -> None:
        """A call began, a message of it is there, or it ended."""
        self._moved.add(peer)

    async def watch(self, port: int) -> None:
        """Look on and on; where that takes long, as of a thousand connections, seldom."""
        took = 0.0
        while os.path.isdir(_FILES):
            await asyncio.sleep(max(_LOOK_S, _REST * took))
            start = time.monotonic()
            with contextlib.suppress(OSError):  # no file can be opened now
                self.look(port)
            took = time.monotonic() - start

    def look(self, port: int) -> None:
        """Cut those off that send much beside messages, and the latest of an address that has more than its share."""
        files = _sockets()
        self._peers = {file: peer for file, peer in self._peers.items() if file in files}
        count: collections.Counter[str] = collections.Counter()
        received: dict[str, int] = {}
        for file in sorted(files, key=lambda file: file not in self._peers):  # those that are known first
            if self._peers.get(file) == "":
                continue
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(files[file])) as connection:
                self._peers[file] = peer = _peer_of(connection, port)
                if not peer:
                    continue
                now = _bytes_received(connection)
                received[peer] = now if peer in self._moved else self._received.get(peer, 0)
                count[address_of(peer)] += 1
                more = now - received[peer] - min(self._calls[peer] * self._most_message, self._most_messages)
                if more > MOST_IDLE or count[address_of(peer)] > self._share:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    connection.shutdown(socket.SHUT_RDWR)  # gRPC closes it then
        self._received, self._moved = received, set()


async def read_in_time(context: Any, seconds: float, end: Callable[[str], Coroutine[Any, Any, None]]) -> Any:
    """The next message of a call; `end` ends it where none is there in time, as gRPC lets no reading be given up."""
    ending: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    said = f"the request's message was not there within {seconds:g} s"
    timer = loop.call_later(seconds, lambda: ending.append(loop.create_task(end(said))))
    try:
        return await context.read()
    finally:
        timer.cancel()


def address_of(peer: str) -> str:
    """A peer's address, without its port: 127.0.0.1 of ipv4:127.0.0.1:50000."""
    return peer.rpartition(":")[0].partition(":")[2]


def _sockets() -> dict[str, int]:
    """The handle of each socket of this process, by what tells it from others."""
    found = {}
    for name in os.listdir(_FILES):
        with contextlib.suppress(OSError):  # closed meanwhile
            file = os.readlink(f"{_FILES}/{name}")
            if file.startswith("socket:"):
                found[file] = int(name)
    return found


def _peer_of(connection: socket.socket, port: int) -> str:
    """The other side as gRPC names it; "" where it is no connection of TCP to that port."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != port:
        return ""
    try:
        host, of, *_ = connection.getpeername()
    except OSError:  # it listens, or is gone
        return ""
    host = host.removeprefix("::ffff:")
    return f"ipv6:%5B{host}%5D:{of}" if ":" in host else f"ipv4:{host}:{of}"


def _bytes_received(connection: socket.socket) -> int:
    at, number = _RECEIVED
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, at + number.size)
    received: int = number.unpack_from(info, at)[0]
    return received
