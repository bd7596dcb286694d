"""The queue of one model, and the threads that run it in batches.

Given requests that arrive one by one -> runs of up to `max_rows` rows; each request gets its own rows back.

A request waits until a thread is free, then until the batch is full or `max_delay_s` has passed since it arrived,
whichever is first; it does not wait for others where it has been the only one for a while. A batch takes the oldest
request and those after it of the same shape, in order. Where a run of several fails, each is run alone, so that what
fails is one request's own.

Who submits a request may run it in its own thread instead, where nobody else waits and the last such run was short:
waking two threads takes longer than a small network.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from plainconv.exporter.errors import EngineError

from ..runner import Array
from .backend import Backend
from .batch_axis import Covering, Tails
from .refusals import DeadlineError, FailedError, RefusedError, TooManyError, UnavailableError

_ALONE_S = 0.05
_SHORT_S = 0.005  # for so long who submits may be held up, which is the event loop
_log = logging.getLogger("plainconv.serving")


@dataclass(frozen=True)
class BatchRules:
    """How to batch: `covering` is None where every request runs alone; `threads` run at the same time."""

    covering: Covering | None = None
    max_delay_s: float = 0.0
    max_queue: int = 256
    threads: int = 1


@dataclass(frozen=True)
class Answer:
    """What one request gets: its outputs, and the rows of the run it was in.

    It waited for `queue_s`; its run took `input_s` to put the requests' inputs together, `compute_s`, and `output_s` to
    take the outputs apart.
    """

    outputs: Mapping[str, Array]
    queue_s: float
    compute_s: float
    batch_rows: int
    input_s: float = 0.0
    output_s: float = 0.0


@dataclass(frozen=True)
class _Item:
    inputs: Mapping[str, Array]
    rows: int
    tails: Tails
    deadline: float
    arrived: float
    answer: "Future[Answer]"


class Batcher:
    """The queue of one model. From any thread; `close` answers what it has taken, and takes no more."""

    def __init__(
        self,
        backend: Backend,
        rules: BatchRules,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        """`observe` is told of every run: its rows, and the seconds it took."""
        self._backend, self._rules, self._observe = backend, rules, observe
        self._queue: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # one thread at a time gathers a batch
        self._closing = False
        self._alone = False  # a run in the thread of who submitted it
        self._s_per_byte = math.inf  # of the last run of one request
        self._unanswered, self._crowded = 0, -math.inf  # requests, and when there was last more than one
        self._threads = [
            threading.Thread(target=self._work, name=f"batcher-{i}", daemon=True) for i in range(rules.threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many requests are in the queue."""
        return len(self._queue)

    def submit(self, inputs: Mapping[str, Array], deadline: float) -> "Future[Answer]":
        """The answer to `inputs`, which have been checked, by `deadline` on the monotonic clock.

        Cancelling it takes the request out of the queue. Raises TooManyError, and UnavailableError once it is closed.
        """
        item = self._item(inputs, deadline)
        with self._changed:
            self._check_open()
            if len(self._queue) >= self._rules.max_queue:
                raise TooManyError(f"{self._rules.max_queue} requests wait for this model already; try again later")
            if self._unanswered:
                self._crowded = item.arrived
            self._unanswered += 1
            self._queue.append(item)
            self._changed.notify_all()
        item.answer.add_done_callback(lambda done: self._forget(item))
        return item.answer

    def is_short(self, inputs: Mapping[str, Array]) -> bool:
        """Whether a run of `inputs` may hold up who asks, by how long the last run of one request took."""
        return self._s_per_byte * _size(inputs) <= _SHORT_S and getattr(self._backend, "is_here", False)

    def run_alone(self, inputs: Mapping[str, Array], deadline: float) -> Answer | None:
        """The answer to `inputs`, run in this thread; None where another request is under way, or was a moment ago.

        Raises as `submit` and its answer do.
        """
        item = self._item(inputs, deadline)
        with self._changed:
            self._check_open()
            if self._unanswered or item.arrived - self._crowded <= _ALONE_S:
                return None
            self._unanswered, self._alone = 1, True
        try:
            self._run([item])
        finally:
            with self._changed:
                self._unanswered, self._alone = self._unanswered - 1, False
                if self._queue or self._closing:  # else there is nothing to wake them for
                    self._changed.notify_all()
        return item.answer.result()

    def close(self) -> None:
        """Answer what is in the queue, end the threads, close the backend. Closing twice does nothing."""
        with self._changed:
            was_closing, self._closing = self._closing, True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        if not was_closing:
            self._backend.close()

    def _item(self, inputs: Mapping[str, Array], deadline: float) -> _Item:
        covering = self._rules.covering
        rows = next(iter(inputs.values())).shape[0] if covering else 1
        tails = covering.tails(inputs) if covering else ()
        return _Item(inputs, rows, tails, deadline, time.monotonic(), Future())

    def _check_open(self) -> None:
        if self._closing:
            raise UnavailableError("the model is being unloaded; try again later")

    def _forget(self, item: _Item) -> None:
        """It has its answer, or was cancelled."""
        with self._changed:
            self._unanswered -= 1
            if not item.answer.cancelled():
                return
            for index, other in enumerate(self._queue):
                if other is item:
                    del self._queue[index]
                    return

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[_Item]:
        """The next batch; none once the queue is closed and empty."""
        with self._turn, self._changed:
            while True:
                while self._alone or not self._queue:
                    if self._closing and not self._alone:
                        return []
                    self._changed.wait()
                batch = self._gather(self._queue.popleft())
                ready = [item for item in batch if item.answer.set_running_or_notify_cancel()]
                if ready:
                    return ready

    def _gather(self, first: _Item) -> list[_Item]:
        """`first`, and what may run with it, once that is enough or its time is up."""
        batch, rows, covering = [first], first.rows, self._rules.covering
        if covering is None:
            return batch
        is_alone = time.monotonic() - self._crowded > _ALONE_S
        until = first.arrived if is_alone else first.arrived + self._rules.max_delay_s
        while rows < covering.most:
            index = next((i for i, item in enumerate(self._queue) if item.tails == first.tails), None)
            if index is not None:
                if not covering.takes(rows + self._queue[index].rows, first.tails):
                    return batch
                batch.append(self._queue[index])
                rows += batch[-1].rows
                del self._queue[index]
                continue
            left = until - time.monotonic()
            if left <= 0 or self._closing or first.answer.cancelled():
                return batch
            self._changed.wait(left)
        return batch

    def _run(self, batch: list[_Item]) -> None:
        start = time.monotonic()
        late = [item for item in batch if item.deadline <= start]
        for item in late:
            error = DeadlineError(f"the request waited {start - item.arrived:.3f} s, until its time was up")
            item.answer.set_exception(error)
        if late:
            batch = [item for item in batch if item.deadline > start]
        if not batch:
            return
        try:
            outputs, (input_s, seconds, output_s) = self._computed(batch)
        except Exception as error:
            if len(batch) > 1:
                for item in batch:
                    self._run([item])
                return
            batch[0].answer.set_exception(_refusal(error))
            return
        rows = sum(item.rows for item in batch)
        if len(batch) == 1:
            self._s_per_byte = seconds / _size(batch[0].inputs)
        self._observe(rows, seconds)
        for item, own in zip(batch, outputs, strict=True):
            item.answer.set_result(Answer(own, start - item.arrived, seconds, rows, input_s, output_s))

    def _computed(self, batch: list[_Item]) -> tuple[list[Mapping[str, Array]], tuple[float, float, float]]:
        """The outputs of each request of the batch; the seconds before, in and after the run."""
        begin = time.monotonic()
        if len(batch) == 1:
            alone: list[Mapping[str, Array]] = [self._backend.predict(batch[0].inputs)]
            return alone, (0.0, time.monotonic() - begin, 0.0)
        joined = {name: np.concatenate([item.inputs[name] for item in batch]) for name in batch[0].inputs}
        start = time.monotonic()
        outputs = self._backend.predict(joined)
        end = time.monotonic()
        ends = np.cumsum([item.rows for item in batch]).tolist()
        wrong = next((name for name, array in outputs.items() if array.shape[:1] != (ends[-1],)), None)
        if wrong is not None:
            raise EngineError(f"output {wrong} has {outputs[wrong].shape[:1]} rows, wanted {ends[-1]}")
        apart: list[Mapping[str, Array]] = [
            {name: array[last - item.rows : last] for name, array in outputs.items()}
            for item, last in zip(batch, ends, strict=True)
        ]
        return apart, (start - begin, end - start, time.monotonic() - end)


def _size(inputs: Mapping[str, Array]) -> int:
    return max(1, sum(array.nbytes for array in inputs.values()))


def _refusal(error: Exception) -> RefusedError:
    """What to tell the sender of a request that could not be run; the log has the rest."""
    if isinstance(error, RefusedError):
        return error
    _log.error("a request could not be run: %s: %s", type(error).__name__, error)
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return FailedError("the server has too little memory for this request; send a smaller batch")
    return FailedError("the model could not be run on this request")
