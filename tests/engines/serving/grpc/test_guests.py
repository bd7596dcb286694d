"""Connections of a port, some of which are cut off; calls that are given their time."""

import asyncio
import contextlib
import select
import socket
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from plainconv.engines.serving.grpc.guests import MOST_IDLE, Guests, read_in_time
from plainconv.engines.serving.refusals import TooManyError

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="connections are looked for in /proc")


class Door:
    """A port of this process, which reads what its connections send."""

    def __init__(self, family: int, host: str) -> None:
        self.listener = socket.create_server((host, 0), family=family)
        self.port, self.host, self.taken = self.listener.getsockname()[1], host, list[socket.socket]()

    def connect(self) -> tuple[socket.socket, str]:
        """The other end of a connection, and its name."""
        connection = socket.create_connection((self.host, self.port), timeout=60)
        taken, _ = self.listener.accept()
        self.taken.append(taken)
        host, port, *_ = connection.getsockname()
        return connection, f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def send(self, connection: socket.socket, size: int) -> None:
        """Have so much arrive."""
        sending = threading.Thread(target=connection.sendall, args=(bytes(size),))
        sending.start()
        while size:
            size -= len(self.taken[-1].recv(MIB))
        sending.join()


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def door(request: Any) -> Iterator[Door]:
    made = Door(*request.param)
    yield made
    for each in (made.listener, *made.taken):
        each.close()


def is_cut(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0]) and connection.recv(1) == b""


def test_one_that_sends_on_and_on(door: Door) -> None:
    """Given much beside messages -> cut off; beside calls as much more as their messages may have."""
    guests = Guests(100, 2 * MIB, 64 * MIB)
    connection, peer = door.connect()
    with connection:
        door.send(connection, MOST_IDLE - MIB)
        guests.look(door.port)
        with guests.call(peer):
            guests.look(door.port)
            door.send(connection, MOST_IDLE + MIB)
            guests.look(door.port)
            assert not is_cut(connection)
            guests.moved(peer)
            guests.look(door.port)
            door.send(connection, MOST_IDLE + MIB)
            guests.look(door.port)
            assert not is_cut(connection)
            door.send(connection, 2 * MIB)
            guests.look(door.port)
            assert is_cut(connection)


def test_one_that_takes_all_places(door: Door) -> None:
    """Given more connections, and calls, of an address than its share -> those that were there first stay."""
    guests = Guests(4, MIB, 64 * MIB)
    with contextlib.ExitStack() as held:
        many = [held.enter_context(door.connect()[0]) for _ in range(3)]
        guests.look(door.port)
        many += [held.enter_context(door.connect()[0]) for _ in range(2)]
        guests.look(door.port)
        assert [is_cut(each) for each in many] == [False] * 3 + [True] * 2
    with contextlib.ExitStack() as held:
        for port in range(3):
            held.enter_context(guests.call(f"ipv4:127.0.0.1:{port}"))
        with pytest.raises(TooManyError, match="of this address"), guests.call("ipv4:127.0.0.1:7"):
            pass
        with guests.call("ipv4:127.0.0.2:7"):
            pass
    with guests.call("ipv4:127.0.0.1:7"):
        pass


def test_a_message_that_does_not_come() -> None:
    """Given a call without its message -> it is ended in time, one with its message is not."""

    async def main() -> tuple[Any, str]:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def read() -> Any:
            return await ended

        async def end(said: str) -> None:
            ended.set_result(said)

        async def read_at_once() -> Any:
            return b"a"

        at_once = await read_in_time(SimpleNamespace(read=read_at_once), 0.01, end)
        await asyncio.sleep(0.05)
        assert not ended.done()
        return at_once, await read_in_time(SimpleNamespace(read=read), 0.05, end)

    assert asyncio.run(main()) == (b"a", "the request's message was not there within 0.05 s")
