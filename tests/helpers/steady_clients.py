"""Clients of the bundle `sums` that ask without end, and what they were told."""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any

REFUSED_S = 60.0  # that one request may be refused
_WAIT_S = 0.05


class Clients:
    """So many, each a thread that `enter` takes to where it asks from; they stop with the block.

    A request that is refused (429, 503) is sent again until it is answered: `refused` counts these by sentence. What is
    answered otherwise than with its sums is `wrong`; what gets no answer, or none but refusals, is `lost`.
    """

    def __init__(self, address: str, count: int, enter: Callable[[], None] = lambda: None) -> None:
        """`address` is HOST:PORT of a server of `sums`."""
        self.right, self.wrong, self.lost = 0, list[Any](), list[str]()
        self.refused: Counter[str] = Counter()
        self.seconds: list[tuple[float, float]] = []  # when each was answered, and how long that took
        self._address, self._enter = address.rpartition(":"), enter
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(count)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(2 * REFUSED_S)

    def slowest(self, since: float = 0.0) -> float:
        """Seconds of the slowest answer since then on the monotonic clock."""
        return max((seconds for at, seconds in self.seconds if at >= since), default=0.0)

    def said(self) -> str:
        """All of it, in a line."""
        refused = f"{self.refused.total()} refused and sent again {dict(self.refused)}"
        failed = f"{len(self.wrong)} wrong {self.wrong[:3]}, {len(self.lost)} lost {self.lost[:3]}"
        return f"{self.right} right, {refused}, {failed}, slowest {self.slowest():.2f} s"

    def _ask(self, number: int) -> None:
        self._enter()
        value = number
        with contextlib.closing(HTTPConnection(self._address[0], int(self._address[2]), timeout=REFUSED_S)) as to:
            while not self._done.is_set():
                start = time.monotonic()
                try:
                    found = self._answer(to, value, start)
                except (OSError, HTTPException, ValueError) as error:
                    self.lost.append(f"{type(error).__name__}: {error} after {time.monotonic() - start:.1f} s")
                    to.close()
                    continue
                if found == [value + 1, 2]:
                    self.right += 1
                    self.seconds.append((time.monotonic(), time.monotonic() - start))
                else:
                    self.wrong.append(found)
                value = (value + 7) % 1000

    def _answer(self, to: HTTPConnection, value: int, start: float) -> Any:
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [value, 1, 1, 1]}
        body = json.dumps({"inputs": [tensor]})
        while True:
            to.request("POST", "/v2/models/sums/infer", body)
            response = to.getresponse()
            said = json.loads(response.read())
            if response.status not in (429, 503):
                return said["outputs"][0]["data"] if response.status == 200 else [response.status, said]
            self.refused[said["error"]] += 1
            if time.monotonic() - start > REFUSED_S:
                raise ValueError(f"nothing but refusals, the last: {said['error']}")
            time.sleep(_WAIT_S)
