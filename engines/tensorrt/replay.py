"""Calls that come again, as CUDA graphs: captured once, then replayed, each with execution contexts of its own."""

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from plainconv.exporter.errors import EngineError

from ..cuda.runtime import CudaRuntime
from .contexts import Shape

Held = TypeVar("Held")
"""What a plan has of its own: a context, or several."""
Asked = TypeVar("Asked")
"""What the input shapes of a call decide."""

_MOST_PLANS, _MOST_FAILURES = 16, 3


class Call(NamedTuple):
    """What is enqueued: the network on inputs of these shapes, its arrays at these addresses, inputs first.

    The address is 0 where the array is the host's, and goes by the lane's own memory. `timed` calls take the time
    between their stages. Equal calls are the same work.
    """

    shapes: tuple[Shape, ...]
    addresses: tuple[int, ...]
    timed: bool = False


class Plan(Generic[Held]):
    """A call's own context, or contexts, whether it has `ran`, and from then on its graph (0: none yet)."""

    def __init__(self, context: Held) -> None:
        self.context, self.ran, self.graph = context, False, 0


class Replay(Generic[Held, Asked]):
    """Enqueues calls by the fastest way there is: on one stream, or from one on several. For one thread at a time.

    A call that comes for the first time runs on a context that takes any shape. For one that came before among the last
    few, a context is made and run once as it is; then that is captured, and from then on replayed. The context of a
    graph is never touched again, as TensorRT asks. The plans not used for longest make room for new ones.
    """

    def __init__(
        self,
        cuda: CudaRuntime,
        stream: int,
        *,
        fresh: Callable[[Call, Asked], Held],
        sequence: Callable[[Held, Call, Asked, bool], None],
        drop: Callable[[Held], None],
        check: Callable[[Held], None],
        why_not: str | None = None,
        repeats: bool = False,
    ) -> None:
        """`fresh` makes a context bound to a call; `sequence` enqueues a call on one that is, told if it is captured.

        What is captured begins on `stream` and has ended there. `check` raises EngineError where a context cannot be
        captured now; `drop` is told of one that is not needed any more. `why_not` says why nothing is to be captured,
        and says so later where captures fail; with `repeats` calls that come again have contexts of their own all the
        same.
        """
        self._cuda, self._stream, self._fresh, self._sequence = cuda, stream, fresh, sequence
        self._drop, self._check = drop, check
        self.why_not, self._failures, self._repeats = why_not, 0, repeats
        self._plans: OrderedDict[Call, Plan[Held]] = OrderedDict()
        self._seen: deque[Call] = deque(maxlen=_MOST_PLANS)

    def enqueue(self, call: Call, request: Asked) -> bool:
        """Enqueue a call by its plan. False where it has none, and is to run on any context."""
        plan = self._plans.get(call)
        if plan is None:
            if self.why_not and not self._repeats:
                return False
            if call not in self._seen:
                self._seen.append(call)
                return False
            plan = self._new_plan(call, request)
            if plan is None:
                return False
        self._plans.move_to_end(call)
        if plan.ran and not plan.graph and not self.why_not:
            plan.graph = self._captured(plan.context, call, request)
        if plan.graph:
            self._cuda.launch(plan.graph, self._stream)
        else:
            self._sequence(plan.context, call, request, False)
            plan.ran = True
        return True

    def settled(self, call: Call) -> bool:
        """Whether the call will be enqueued the next time as it was the last."""
        plan = self._plans.get(call)
        if self.why_not:
            return plan is not None or not self._repeats
        return bool(plan and plan.graph)

    def close(self) -> None:
        """Give graphs and contexts back, and let go of what made them."""
        try:
            with contextlib.ExitStack() as each:
                while self._plans:
                    each.callback(self._release, self._plans.popitem(last=False)[1])
        finally:
            del self._fresh, self._sequence, self._drop, self._check

    def _new_plan(self, call: Call, request: Asked) -> Plan[Held] | None:
        if len(self._plans) == _MOST_PLANS:
            self._release(self._plans.popitem(last=False)[1])
        try:
            plan = self._plans[call] = Plan(self._fresh(call, request))
        except EngineError as error:  # above all for want of memory, without which calls run too
            self.why_not, self._repeats = str(error), False
            return None
        return plan

    def _captured(self, context: Held, call: Call, request: Asked) -> int:
        """The graph of a call; 0 where it cannot be captured."""
        try:
            self._check(context)
            self._cuda.begin_capture(self._stream)
            try:
                self._sequence(context, call, request, True)
            except BaseException:
                with contextlib.suppress(EngineError):
                    self._cuda.destroy_graph(self._cuda.end_capture(self._stream))
                raise
            return self._cuda.end_capture(self._stream)
        except EngineError as error:
            self._failures += 1  # what others do on the device breaks into one capture, not into every one
            if self._failures == _MOST_FAILURES:
                self.why_not = str(error)
            return 0

    def _release(self, plan: Plan[Held]) -> None:
        try:
            if plan.graph:
                self._cuda.destroy_graph(plan.graph)
        finally:
            self._drop(plan.context)
