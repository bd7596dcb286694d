"""Whether the head of a cluster is still there. Imports no Ray."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

_KNOCK_S = 10.0
_LEAVE_S = 1.0
ASK_S, LOST_S = 2.0, 30.0  # how often it is asked, and after how long without a word it is lost


def watch(ask: Callable[[], object], lost: Callable[[], None], ended: threading.Event) -> None:
    """Call `lost` once `ask` has raised, or not returned, for `LOST_S`; in a thread, until `ended`."""
    threading.Thread(target=_watch, args=(ask, lost, ended), name="head", daemon=True).start()


def _watch(ask: Callable[[], object], lost: Callable[[], None], ended: threading.Event) -> None:
    heard = time.monotonic()

    def asked() -> None:
        nonlocal heard
        with contextlib.suppress(Exception):
            ask()
            heard = time.monotonic()

    asking = None
    while time.monotonic() - heard < LOST_S:
        if asking is None or not asking.is_alive():
            asking = threading.Thread(target=asked, name="ask", daemon=True)
            asking.start()
        if ended.wait(ASK_S):
            return
    lost()


def leave(code: int) -> None:
    """End this process soon: by itself Ray waits for the lost head as it leaves."""
    end = threading.Timer(_LEAVE_S, os._exit, (code,))
    end.daemon = True
    end.start()


def is_not_rays(record: logging.LogRecord) -> bool:
    """Whether it is no more than that a task of Ray Serve's found its replica gone."""
    return f"{os.sep}ray{os.sep}serve{os.sep}" not in record.getMessage()


def knock(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
