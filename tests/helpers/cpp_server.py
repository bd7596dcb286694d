"""A server as a process of its own: `bundle-serve`, or another that says where it answers as that does."""

import contextlib
import os
import re
import signal
import subprocess
import threading
from http.client import HTTPConnection

import pytest

LONG_S = 60.0  # what nothing takes: a wait of so long is a failure
SWIFT = ("--lame-duck", 0, "--watch", 0.05)
_ANSWERS = re.compile(r"serving (.+) on (?:https?://)?(\S+?)(?: and grpc (\S+))?$")


def not_here(reason):
    """Skip the test; where CI is set, where nothing may be left out, fail it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


class Server:
    """A running server, its addresses and port, and the lines that it wrote."""

    def __init__(self, process):
        self.process, self.lines = process, []
        self.http, self.grpc, self.port = "", "", 0
        self.started = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if found := _ANSWERS.search(self.lines[-1]):
                self.http, self.grpc = found[2], found[3] or ""
                self.port = int(self.http.rpartition(":")[2]) if self.http[:5] != "unix:" else 0
                self.started.set()
        self.started.set()

    def connect(self):
        return HTTPConnection("127.0.0.1", self.port, timeout=LONG_S)

    def ask(self, method, path, body=None, headers=None):
        """The status, headers and body of an answer."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers or {})
            return read(connection.getresponse())

    def stop(self, number=signal.SIGTERM):
        """Its exit code, and its lines."""
        self.process.send_signal(number)
        code = self.process.wait(LONG_S)
        self.reader.join(LONG_S)
        return code, self.lines


def read(response):
    return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def running(program, *arguments):
    """`bundle-serve`, as long as a `with` block."""
    return served_by([program("bundle-serve"), *arguments, "--port", "0", "--threads", "1", *SWIFT])


@contextlib.contextmanager
def served_by(command):
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    server = Server(process)
    try:
        assert server.started.wait(LONG_S)
        yield server
    finally:
        process.kill()
        process.wait(LONG_S)
        server.reader.join(LONG_S)
        process.stderr.close()
