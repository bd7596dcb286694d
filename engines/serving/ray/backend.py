"""Replicas on a Ray cluster behind this server's queue: the only file that imports Ray.

    queue ─ batch ─▶ RayBackend ─ Ray Serve's handle ─▶ a replica on any machine: the bundle there, its runner

Each version of a model that is loaded is an application of its own on Ray Serve, without a route: a new version starts
beside the old one, and unloading deletes it. A batch travels as arrays in shared memory, pickled without a copy, and
what a replica answers is read where it lies.
"""

import contextlib
import logging
import math
import os
import re
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plainconv.exporter.bundle import Bundle
from plainconv.exporter.errors import CheckFailedError, EngineError, one_line

from ...runner import Array
from ..backend import Loaded
from ..options import ServeOptions
from ..refusals import UnavailableError
from . import head
from .options import RUNS_AHEAD, RayOptions

_log = logging.getLogger("plainconv.serving")
REMEDY = "pip install 'plainconv[ray]'"
_DEPLOYMENT = "replica"
_POLL_S = 0.1
_HEALTH_S = 2.0  # until a replica that died is missed, and another takes its place
_SILENT_S = 4.0  # three times in a row, and a replica is sent no more: its host lost power, or the link to it is gone
_QUIET = {"log_level": "ERROR", "enable_access_log": False}
_HAVE_OPTIONS = {"min_replicas", "max_replicas", "target_ongoing_requests"}  # of their own
_OURS = re.compile(r"^exporter\.errors\.\w+: ")


class RayCluster:
    """A connection to a Ray cluster; `load` makes a bundle into replicas there. Use it in a `with` block.

    Enter it in the main thread, before an event loop has taken over the signals. A cluster that was begun here ends
    with the block; what runs on another is left alone, but for what was loaded by this connection.
    """

    def __init__(self, options: RayOptions) -> None:
        """Raises EngineError where Ray is missing, or does not know an option of its autoscaling."""
        self._options = options
        self._ray, self._serve = _import_ray()
        self._autoscaling = self._autoscaling_of(options)
        self._given_up = threading.Event()
        self._is_ours = self._is_lost = False

    def __enter__(self) -> Self:
        """Connect. Raises EngineError where there is no cluster at the address."""
        if not self._ray.is_initialized():
            try:
                head.knock(self._options.address)
                with _same_signals():
                    self._ray.init(
                        address=self._options.address or None,
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                    )
            except Exception as error:
                where = self._options.address or "this machine"
                remedy = (
                    "give a cluster that this machine belongs to, with RAY_AUTH_TOKEN where it asks, or --ray local"
                )
                raise EngineError(f"no Ray cluster at {where} ({one_line(error)}); {remedy}") from None
            self._is_ours = True
        try:
            self._serve.start(proxy_location="Disabled", logging_config=_QUIET)
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                raise EngineError(f"Ray Serve does not start ({one_line(error)}); see to the cluster") from None
            raise
        head.watch(self._serve.status, self._end, self._given_up)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises CheckFailedError where the cluster was lost, which ended the server."""
        self.close()
        if self._is_lost:
            where = self._options.address or "this machine"
            raise CheckFailedError(
                f"the head of the Ray cluster at {where} was lost, and all replicas with it; "
                "see to it, then start the server again"
            ) from None

    def close(self) -> None:
        """Leave the cluster; one that was begun here ends. Closing twice does nothing."""
        self.give_up()
        if self._is_lost:
            head.leave(CheckFailedError.exit_code)
        elif self._is_ours:
            self._ray.shutdown()
        self._is_ours = False

    def give_up(self) -> None:
        """Wait no longer for replicas that are not ready yet. From any thread."""
        self._given_up.set()

    def load(self, bundle: Bundle, options: ServeOptions) -> Loaded:
        """The bundle in replicas, every one of them ready. A `backend.Loader`.

        Raises EngineError, in one line, where a replica does not open it or there is no place for all of them.
        """
        name = f"plainconv-{uuid.uuid4().hex[:12]}-{bundle.sha256[:12]}"
        deployment = self._deployment(options).bind(
            str(bundle.folder.absolute()), bundle.sha256, options.workers, self._load_options(options)
        )
        target = self._serve.RunTarget(deployment, name=name, route_prefix=None)
        try:
            [handle] = self._serve.run_many([target], wait_for_applications_running=False)
            self._wait(name, bundle.folder)
            backend = RayBackend(name, handle, options.timeout_s, lambda: self._is_lost)
            facts = handle.facts.remote().result(timeout_s=self._options.start_s)
        except BaseException as error:
            self._delete(name)
            if isinstance(error, Exception) and not isinstance(error, EngineError):
                raise EngineError(f"{bundle.folder}: Ray does not run it ({one_line(error)}); see to it") from None
            raise
        workers = self._options.most * (options.workers + RUNS_AHEAD)
        return Loaded(backend, facts["runtime"], facts["precision"], facts["profiles"], workers)

    def _end(self) -> None:
        """Have the server end, as by SIGTERM: a head that comes back knows of no replica."""
        self._is_lost = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _deployment(self, options: ServeOptions) -> Any:
        """What Ray is told of a replica."""
        given, scaling = self._options, self._autoscaling
        ongoing = options.workers + RUNS_AHEAD
        count: dict[str, Any] = {"num_replicas": given.replicas}
        if scaling is not None:
            target = given.target_ongoing or options.workers
            ongoing = max(ongoing, math.ceil(target))
            count = {"autoscaling_config": {**scaling, "target_ongoing_requests": target}}
        return self._serve.deployment(
            _replica_class(),
            name=_DEPLOYMENT,
            ray_actor_options={"num_cpus": given.cpus, "num_gpus": given.gpus},
            max_ongoing_requests=ongoing,
            max_constructor_retry_count=1,  # what a bundle is does not change by trying again
            health_check_period_s=_HEALTH_S,
            health_check_timeout_s=_SILENT_S,
            graceful_shutdown_wait_loop_s=_POLL_S,
            graceful_shutdown_timeout_s=options.timeout_s,
            logging_config=_QUIET,
            **count,
        )

    def _load_options(self, options: ServeOptions) -> dict[str, Any]:
        """`engines.load`'s; a replica has as many threads as it has processors."""
        return {
            "engine": options.engine,
            "precision": options.precision,
            "threads": options.threads or max(1, int(self._options.cpus)),
            "devices": options.devices,
            "eager_kernels": options.eager_kernels,
        }

    def _wait(self, name: str, folder: Path) -> None:
        """Until every replica is ready."""
        end = time.monotonic() + self._options.start_s
        while (found := self._serve.status().applications[name]).status != "RUNNING":
            if found.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise EngineError(f"a replica does not start: {_reason(found)}")
            if self._given_up.wait(_POLL_S):
                raise EngineError(f"{folder}: its replicas were not ready yet when the server was told to stop")
            if time.monotonic() > end:
                states = {k: n for each in found.deployments.values() for k, n in each.replica_states.items()}
                is_some = f"{states.get('RUNNING', 0)} of its replicas are ready after {self._options.start_s:g} s"
                raise EngineError(
                    f"{folder}: {is_some}, the others have no place ({self._asked()} each); "
                    "ask for fewer or smaller replicas, or add machines to the cluster"
                )

    def _asked(self) -> str:
        return f"{self._options.cpus:g} CPUs and {self._options.gpus:g} GPUs"

    def _delete(self, name: str) -> None:
        """Without waiting: what never ran is given time to end in vain."""
        with contextlib.suppress(Exception):
            self._serve.delete(name, _blocking=False)

    def _autoscaling_of(self, options: RayOptions) -> dict[str, Any] | None:
        """The fields of Ray's AutoscalingConfig."""
        if options.autoscale is None:
            return None
        least, most = options.autoscale
        known = self._serve.config.AutoscalingConfig
        names = set(known.model_fields) - _HAVE_OPTIONS
        unknown = sorted(set(options.autoscaling) - names)
        if unknown:
            wanted = ", ".join(sorted(names))
            raise EngineError(f"Ray's autoscaling has no {unknown[0]!r}; wanted one of {wanted}")
        fields = {"min_replicas": least, "max_replicas": most, **options.autoscaling}
        try:
            known(**fields)
        except ValueError as error:
            raise EngineError(f"Ray's autoscaling refuses its options: {one_line(error)}") from None
        return fields


class RayBackend:
    """The replicas of one version of a model. From any thread; what a replica raises is one line here."""

    def __init__(self, name: str, handle: Any, timeout_s: float, is_lost: Callable[[], bool] = lambda: False) -> None:
        """`name` is the application's; a batch may take `timeout_s`; `is_lost` says whether the cluster was lost."""
        self._name, self._handle, self._timeout_s, self._is_lost = name, handle, timeout_s, is_lost
        self._ray, self._serve = _import_ray()
        errors = self._ray.exceptions
        self._lost = (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError)

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs of a batch, run once more where its replica is lost, or silent for half of the time.

        Raises EngineError as the runner there does, UnavailableError where no replica answers.
        """
        end = time.monotonic() + self._timeout_s
        runs = [self._handle.remote(dict(inputs))]
        try:
            return self._outputs(runs[0], self._timeout_s / 2)
        except TimeoutError:
            _log.warning("a replica is silent, its batch is run beside it")  # who answers first is taken
        except self._lost as error:
            _log.warning("a replica was lost (%s), its batch is run again", type(error).__name__)
            runs.clear()
        runs.append(self._handle.remote(dict(inputs)))
        return self._first_of(runs, end)

    def close(self) -> None:
        """Delete the application: its replicas end, and what they held is free."""
        if self._is_lost():
            return
        try:
            self._handle.shutdown()
            self._serve.delete(self._name)
        except Exception as error:
            _log.warning("the replicas of %s could not be deleted: %s", self._name, one_line(error))

    def _first_of(self, runs: list[Any], end: float) -> Mapping[str, Array]:
        """The outputs of whichever is done first, by `end` on the monotonic clock; the others are cancelled."""
        try:
            while runs and time.monotonic() < end:
                for run in tuple(runs):
                    try:
                        outputs = self._outputs(run, _POLL_S)
                    except TimeoutError:
                        continue
                    except self._lost:
                        runs.remove(run)
                    else:
                        runs.remove(run)
                        return outputs
            if runs:
                raise UnavailableError(f"no replica answered within {self._timeout_s:g} s; try again later")
            raise UnavailableError("the replicas that ran this request were lost; try again later")
        finally:
            for run in runs:
                run.cancel()

    def _outputs(self, run: Any, seconds: float) -> Mapping[str, Array]:
        """What it gives within the time. Raises TimeoutError, what a lost replica raises, EngineError."""
        try:
            outputs: Mapping[str, Array] = run.result(timeout_s=seconds)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error, self._lost):
                raise
            raise EngineError(one_line(error.cause)) from None
        return outputs


def _replica_class() -> type[Any]:
    """What Ray runs. It travels as code, since the name of this module means nothing on another machine."""

    class BundleReplica:
        def __init__(self, *arguments: Any) -> None:
            from plainconv.engines.serving.ray.replica import Replica

            self._replica = Replica(*arguments)

        async def __call__(self, inputs: Any) -> Any:
            import asyncio

            return await asyncio.wrap_future(self._replica.submit(inputs))

        async def facts(self) -> Any:
            return self._replica.facts()

    return BundleReplica


def _import_ray() -> tuple[Any, Any]:
    """Ray and Ray Serve. Raises EngineError where they are not there.

    Ray would begin a cluster by itself at the first call after it was left, which a thread of Ray Serve may make; and
    with the address of a cluster it would send no token, though one is given.
    """
    if "ray" not in sys.modules:  # it reads these when it is imported
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}.isdisjoint(os.environ):
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`", DeprecationWarning)
            import ray
            import ray.serve
            import ray.serve.config
    except ImportError as error:
        raise EngineError(f"Ray Serve cannot be imported ({error}); {REMEDY}") from None
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    logging.getLogger("asyncio").addFilter(head.is_not_rays)
    return ray, ray.serve


@contextlib.contextmanager
def _same_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself where it can; here it is left to who had it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason(found: Any) -> str:
    """The last line of what a replica raised: our own sentence, or another's error."""
    lines = [line for each in found.deployments.values() for line in each.message.splitlines() if line.strip()]
    text = lines[-1] if lines else found.message
    return _OURS.sub("", text.strip())
