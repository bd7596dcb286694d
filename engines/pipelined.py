"""Many requests through one runner, several at a time."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from plainconv.exporter.errors import EngineError

from .runner import Runner

_Answers = deque[Future[dict[str, Any]]]


def pipelined(runner: Runner, requests: Iterable[Mapping[str, Any]], *, in_flight: int = 4) -> Iterator[dict[str, Any]]:
    """The answers to `requests` in their order, up to `in_flight` of them under way at a time.

    That is how the places of a split network all have something to do. A request is read when there is room for it,
    and its arrays must stay as they are until its answer is there. Nothing is under way any more, and no thread left,
    when this ends: after the last answer, with an error, or because nobody wants the rest.

    Raises EngineError at once where `in_flight` is below 1, and what a request, or reading it, raises in its turn.
    """
    if in_flight < 1:
        raise EngineError(f"in_flight is {in_flight}; wanted 1 or more")
    return _answers(runner, requests, in_flight)


def _answers(runner: Runner, requests: Iterable[Mapping[str, Any]], in_flight: int) -> Iterator[dict[str, Any]]:
    under_way: _Answers = deque()
    with ThreadPoolExecutor(in_flight, thread_name_prefix="pipelined") as threads:
        try:
            rest, unread = iter(requests), None
            while unread is None:
                try:
                    under_way.append(threads.submit(runner, next(rest)))
                except Exception as error:  # there is no more, or it cannot be read: those before it come first
                    unread = error
                while under_way and (unread is not None or len(under_way) == in_flight):
                    yield under_way.popleft().result()
            if not isinstance(unread, StopIteration):
                raise unread
        finally:
            for answer in under_way:
                answer.cancel()
