"""What strangers try against a server, each try with what became of it and what the server's memory did.

    python tests/benchmarks/abuse_serve.py BUNDLE [--tls] [--command 'SERVER …']
    python tests/benchmarks/abuse_serve.py BUNDLE --command 'bundle-serve BUNDLE --name net --port 0 --grpc-port 0'

On loopback alone, each try bounded in bytes and seconds. `--command` is another server of bundles, such as the one in
C++, with its arguments; it must say `serving … on http://HOST:PORT` as ours does, and perhaps `and grpc HOST:PORT`.
After each try a sound request must be answered. Each is done twice: what the first takes, and the second does not take
again, is room that the allocator keeps, once for each of its arenas. Ends with exit code 1 where a request is not
answered, memory grew by over 64 MiB from the first time or 32 from the second (measured: 31, 28), or a sender was let
on for longer than it may be. One is cut, or held up: the server reads no more of it, and cuts it later.
"""

import argparse
import contextlib
import gzip
import json
import re
import shlex
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from serving_client import LONG_S, body_of

from plainconv.engines.bench import random_inputs
from plainconv.exporter.bundle import Bundle

MIB = 2**20
MOST_SENT = 96 * MIB  # of one try
MOST_GROWTH = (64.0, 32.0)  # MiB, from the first time of a try and from the second
SECONDS = 4.0  # that a try goes on, or waits
FLOOD_S = 20.0  # the same of one that only sends
SETTLED_S = 1.0, 10.0  # until what ended has been left: at least, and where much is held, at most
COMMAND = "import sys; from plainconv.exporter.cli.main import main; sys.exit(main())"
_SERVING = re.compile(r"serving .* on (https?)://(\S+?)(?: and grpc (\S+))?$")
HEAD = b"POST /v2/models/net/infer HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


class Target:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[str]", http: str, grpc: str, tls: bool, sound: bytes) -> None:
        self.process, self.tls, self._sound = process, tls, sound
        self.http, self.grpc = _address(http), _address(grpc) if grpc else None

    def mib(self) -> float:
        """What it holds."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    def connect(self, *, handshake: bool = True, grpc: bool = False, source: str = "127.0.0.1") -> socket.socket:
        """A connection. Raises OSError."""
        address = self.grpc if grpc and self.grpc else self.http
        connection = socket.create_connection(address, SECONDS, (source, 0))
        if not (self.tls and handshake):
            return connection
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"] if grpc else ["http/1.1"])
        return context.wrap_socket(connection)

    def answers(self) -> str:
        """The status of a sound request; why there is none."""
        try:
            with self.connect() as connection:
                connection.sendall(self._sound)
                return connection.recv(100).split(b"\r\n")[0].decode() or "closed"
        except OSError as error:
            return type(error).__name__


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def flood(head: bytes, piece: bytes, *, grpc: bool = False, most: int = MOST_SENT) -> Callable[[Target], str]:
    """One connection that sends `head`, then `piece` on and on."""

    def tries(target: Target) -> str:
        sent, end, said = 0, time.monotonic() + FLOOD_S, "let on"
        try:
            with target.connect(grpc=grpc) as connection:
                connection.sendall(head)
                while sent < most and time.monotonic() < end:
                    connection.sendall(piece)
                    sent += len(piece)
        except TimeoutError:
            said = "held up"
        except OSError:
            said = "cut"
        return f"{said} after {sent / MIB:.1f} MiB"

    return tries


def held(count: int, head: bytes, *, handshake: bool = True, grpc: bool = False) -> Callable[[Target], str]:
    """So many connections that send `head` and are held, while sound requests are sent."""

    def tries(target: Target) -> str:
        with contextlib.ExitStack() as stack:
            taken, many = 0, count // 5 if target.tls and handshake else count  # a handshake costs both sides
            for _ in range(many):
                with contextlib.suppress(OSError):
                    connection = stack.enter_context(target.connect(handshake=handshake, grpc=grpc))
                    connection.sendall(head)
                    taken += 1
            time.sleep(0.5)
            return f"{taken} of {many} connected; meanwhile a sound request: {target.answers()}"

    return tries


def storm(*, grpc: bool = False) -> Callable[[Target], str]:
    """Connections that are begun and reset at once, one after the other."""

    def tries(target: Target) -> str:
        count, end = 0, time.monotonic() + SECONDS
        while count < 20_000 and time.monotonic() < end:
            with contextlib.suppress(OSError), target.connect(handshake=False, grpc=grpc) as connection:
                connection.sendall(b"P")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            count += 1
        return f"{count} connections"

    return tries


def once(data: bytes) -> Callable[[Target], str]:
    """One request as it is."""

    def tries(target: Target) -> str:
        try:
            with target.connect() as connection:
                connection.sendall(data)
                return connection.recv(100).split(b"\r\n")[0].decode() or "closed"
        except OSError as error:
            return type(error).__name__

    return tries


def with_body(text: bytes, *headers: bytes, version: bytes = b"1.1", line: bytes = b"GET /v2/health/live") -> bytes:
    """A request with these headers."""
    lines = b"".join(each + b"\r\n" for each in headers)
    return line + b" HTTP/" + version + b"\r\n" + lines + b"connection: close\r\n\r\n" + text


HOST = b"host: x"
TRIES: dict[str, Callable[[Target], str]] = {
    "trailers without end": flood(CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000),
    "a chunk line without end": flood(CHUNKED + b"1;", b"e" * 60_000),
    "chunk extensions": flood(CHUNKED, b"1;" + b"e" * 60_000 + b"\r\nx\r\n"),
    "chunks of one byte": flood(CHUNKED, b"1\r\nx\r\n" * 10_000),
    "headers without end": flood(HEAD, b"a: " + b"x" * 60_000 + b"\r\n"),
    "a request line without end": flood(b"GET /", b"x" * 60_000),
    "pipelined requests, unread": flood(b"", b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n" * 2_000),
    "64 bodies of 64 MiB, announced": held(64, HEAD + b"content-length: 67108864\r\n\r\n"),
    "500 connections, silent": held(500, b""),
    "500 half heads": held(500, HEAD),
    "connections reset": storm(),
    "500 without a handshake": held(500, b"", handshake=False),
    "gzip, chunked": once(with_body(b"0\r\n\r\n", HOST, b"transfer-encoding: gzip, chunked")),
    "chunks under HTTP/1.0": once(with_body(b"0\r\n\r\n", HOST, b"transfer-encoding: chunked", version=b"1.0")),
    "chunks and a length": once(with_body(b"0\r\n\r\n", HOST, b"content-length: 5", b"transfer-encoding: chunked")),
    "the same length twice": once(with_body(b"{}", HOST, b"content-length: 2", b"content-length: 2")),
    "a length with zeros": once(with_body(b"{}", HOST, b"content-length: 02")),
    "no host": once(with_body(b"{}", b"content-length: 2")),
    "two hosts": once(with_body(b"{}", HOST, HOST, b"content-length: 2")),
    "HTTP/2.0 in a line": once(with_body(b"{}", HOST, b"content-length: 2", version=b"2.0")),
    "two content codings": once(with_body(b"{}", HOST, b"content-length: 2", *[b"content-encoding: identity"] * 2)),
}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def call(method: str, stream: int, *more: tuple[bytes, bytes]) -> bytes:
    """The HEADERS of a call of gRPC."""
    pairs = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode()), (b":authority", b"x")]
    pairs += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *more]
    fields = (b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in pairs)
    return frame(1, 4, stream, b"".join(fields))


def bomb(target: Target) -> str:
    """A message of 64 KiB that is 66 MiB once it is unpacked: no message at all, refused before it is all there."""
    packed = gzip.compress(bytes(66 * MIB))
    data = b"\1" + len(packed).to_bytes(4, "big") + packed
    pieces = [data[i : i + 16_000] for i in range(0, len(data), 16_000)]
    frames = [frame(0, int(piece is pieces[-1]), 1, piece) for piece in pieces]
    with target.connect(grpc=True) as connection:
        connection.sendall(START + call(INFER, 1, (b"grpc-encoding", b"gzip")) + b"".join(frames[:4]))
        connection.sendall(b"".join(frames[4:]))
        return ended(connection)


def ended(connection: socket.socket) -> str:
    """How the server ends stream 1 of a connection."""
    found: set[str] = set()
    with contextlib.suppress(OSError), connection.makefile("rb") as received:
        while len(head := received.read(9)) == 9:
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            received.read(int.from_bytes(head[:3], "big"))
            found |= {"a message"} if (kind, stream) == (0, 1) else set()
            if stream == 1 and (kind == 3 or flags & 1):
                return " and ".join(sorted(found | {"a reset" if kind == 3 else "a status"}))
    return "not answered"


def halves(target: Target) -> str:
    """As many calls as there may be, each with half a message; another address asks meanwhile."""
    half = frame(0, 0, 1, b"\0\0\1\0\0" + bytes(50))
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            with contextlib.suppress(OSError):
                connection = stack.enter_context(target.connect(grpc=True))
                connection.sendall(START)
                for each in range(1, 257, 2):
                    connection.sendall(call(INFER, each) + half[:5] + each.to_bytes(4, "big") + half[9:])
        time.sleep(0.5)
        other = stack.enter_context(target.connect(grpc=True, source="127.0.0.2"))
        other.sendall(START + call(LIVE, 1) + frame(0, 1, 1, bytes(5)))
        return f"meanwhile another has {ended(other)}; a sound request: {target.answers()}"


def resets(target: Target) -> str:
    """Calls that are begun and given up at once, one after the other on a connection."""
    count, end = 0, time.monotonic() + SECONDS
    with contextlib.suppress(OSError), target.connect(grpc=True) as connection:
        connection.sendall(START)
        while time.monotonic() < end and count < 200_000:
            streams = range(2 * count + 1, 2 * count + 401, 2)
            connection.sendall(b"".join(call(INFER, each) + frame(3, 0, each, b"\0\0\0\x08") for each in streams))
            count += 200
    return f"{count} calls"


START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
WATCH = call("/grpc.health.v1.Health/Watch", 1) + frame(0, 1, 1, bytes(5))
ANNOUNCED = frame(0, 0, 1, b"\0" + (64 * MIB).to_bytes(4, "big") + bytes(16_000))
FIELD = b"\0\1a\x7e" + b"x" * 126
GRPC_TRIES: dict[str, Callable[[Target], str]] = {
    "a message that unpacks to 66 MiB": bomb,
    "200 messages of 64 MiB, announced": held(200, START + call(INFER, 1) + ANNOUNCED, grpc=True),
    "500 gRPC connections, silent": held(500, b"", grpc=True),
    "500 that only say hello": held(500, START, grpc=True),
    "500 gRPC without a handshake": held(500, b"", handshake=False, grpc=True),
    "1280 halves of messages": halves,
    "header blocks without end": flood(START + frame(1, 0, 1), frame(9, 0, 1, FIELD) * 500, grpc=True),
    "the same beside a call": flood(  # which might have a message
        START + WATCH + frame(1, 0, 3), frame(9, 0, 3, FIELD) * 500, grpc=True, most=2 * MOST_SENT
    ),
    "calls begun and reset": resets,
    "settings without end": flood(START, frame(4, 0, 0, b"\0\4\0\0\xff\xff") * 1000, grpc=True),
    "empty pieces of a message": flood(START + call(INFER, 1), frame(0, 0, 1) * 1000, grpc=True, most=2 * MOST_SENT),
    "priorities without end": flood(START, frame(2, 0, 1, bytes(5)) * 1000, grpc=True),
    "windows without end": flood(START, frame(8, 0, 0, bytes([0, 0, 0, 1])) * 1000, grpc=True),
    "frames of no kind": flood(START, frame(99, 0, 0, bytes(16_000)) * 10, grpc=True),
    "gRPC connections reset": storm(grpc=True),
    "pings without end": flood(START, frame(6, 0, 0, bytes(8)) * 1000, grpc=True),
    "a message beyond the limit": flood(
        START + call(INFER, 1), frame(0, 0, 1, b"\0\xff\xff\xff\xff" + bytes(16_000)), grpc=True
    ),
}


@contextlib.contextmanager
def serving(command: list[str], tls: bool, sound: bytes) -> Iterator[Target]:
    """The server, killed at the end."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    found: list[tuple[str, str]] = []
    started = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            if match := _SERVING.search(line.rstrip()):
                found.append((match[2], match[3] or ""))
                started.set()
        started.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        if not started.wait(LONG_S) or not found:
            raise SystemExit("the server did not start")
        yield Target(process, *found[0], tls, sound)
    finally:
        process.kill()
        process.wait(LONG_S)


def settle(target: Target, mib: float) -> None:
    """Wait until what ended has been left."""
    least, most = SETTLED_S
    time.sleep(least)
    end = time.monotonic() + most
    while target.mib() > mib and time.monotonic() < end:
        time.sleep(0.2)


def main() -> int:
    """Print a line for each try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--command", default="", help="of another server")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    body, headers = body_of(random_inputs(bundle.inputs, 1))
    lines = [f"{name}: {value}".encode() for name, value in headers.items()]
    infer = b"POST /v2/models/net/infer"
    sound = with_body(body, HOST, b"content-length: %d" % len(body), *lines, line=infer)
    ours = [sys.executable, "-c", COMMAND, "serve", str(args.bundle), "--name", "net", "--access-log", "none"]
    command = shlex.split(args.command) or [*ours, "--http-port", "0", "--grpc-port", "0"]
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        if args.tls:
            sys.path.append(str(Path(__file__).parents[1] / "helpers"))
            from certificates import write_certificate

            certificate, key = write_certificate(Path(folder))
            command += ["--tls-cert", str(certificate), "--tls-key", str(key)]
        with serving(command, args.tls, sound) as target:
            start = target.mib()
            for name, tries in (TRIES | GRPC_TRIES if target.grpc else TRIES).items():
                held = [target.mib()]
                for _ in range(2):
                    said = tries(target)
                    settle(target, held[-1] + MOST_GROWTH[-1] / 2)
                    held.append(target.mib())
                first, grown, after = held[1] - held[0], held[2] - held[1], target.answers()
                print(f"{name:32s} {said:64s} {first:+6.1f} MiB, again {grown:+6.1f}, then {after}", flush=True)
                bad = " 200 " not in after or first > MOST_GROWTH[0] or grown > MOST_GROWTH[1] or "let on" in said
                bad |= "not answered" in said or (said.startswith("HTTP/") and " 200 " in said)
                bad |= "meanwhile" in said and " 200 " not in said
                problems += [name] if bad else []
            print(f"memory: {start:.0f} MiB at the start, {target.mib():.0f} MiB at the end")
    print(json.dumps({"failed": problems}) if problems else "nothing was lost")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
