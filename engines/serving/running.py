"""A server's life: bind, load, serve until a signal, answer what was accepted, end.

Told to stop, it is first no longer ready, and goes on for a while, so that whoever watches it sends elsewhere. Then it
takes no further connection: those that are there get their answers, the last with `connection: close`, and gRPC's new
requests are told UNAVAILABLE; once nothing is under way, gRPC says good-bye and all are closed. What is not answered
within the grace time is given up, and counted.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from plainconv.exporter.errors import CheckFailedError, EngineError
from plainconv.exporter.memory import share_freed

from .access_log import AccessLog
from .auth import Bearer
from .backend import Loader, load_here
from .model import open_model
from .options import ServeOptions
from .places import Places
from .service import Service
from .shared_memory import Regions
from .store import Store, Watcher
from .tls import Certificates

if TYPE_CHECKING:
    from .rest.control import Route

    Routes = Callable[[Service], Sequence[Route]]

_log = logging.getLogger("plainconv.serving")
_LINGER_S = 0.3  # without a request: then nobody is about to send one on a connection that is still open
_TICK_S = 0.02
_HOLD_S = 0.1
_PLACES = 2  # for freed memory: else each of gRPC's threads has its own
REMEDY = "pip install 'plainconv[serve]'"


def serve(
    places: Places,
    options: ServeOptions,
    *,
    say: Callable[[str], None],
    routes: "Routes | None" = None,
    loader: Loader = load_here,
    give_up: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. `say` is told, in one line, once requests are answered.

    `routes` are those beside the protocol's, the page for people where none are given; `loader` makes a bundle into
    what computes, and is told to `give_up` where a signal comes meanwhile.

    Raises EngineError where a port is taken, TLS cannot be set up, a library is missing or no model loads,
    BundleError where a bundle does not open, CheckFailedError where requests were given up at the end.
    """
    try:
        from .grpc import server as grpc_server  # noqa: F401
        from .page import routes as page
        from .rest import server as rest_server  # noqa: F401
    except ImportError as error:
        raise EngineError(f"the server cannot be imported ({error}); {REMEDY}") from None
    certificates = _certificates(options)
    share_freed(_PLACES)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        unanswered = runner.run(_serve(places, options, certificates, say, routes or page.routes, loader, give_up))
    if unanswered:
        raise CheckFailedError(f"{unanswered} requests were not answered within the grace time; give a longer --grace")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop, where there is one for this system."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _certificates(options: ServeOptions) -> Certificates | None:
    """Raises EngineError."""
    return Certificates(options.tls_cert, options.tls_key) if options.tls_cert and options.tls_key else None


async def _serve(
    places: Places,
    options: ServeOptions,
    certificates: Certificates | None,
    say: Callable[[str], None],
    routes: "Routes",
    loader: Loader,
    give_up: Callable[[], None] | None,
) -> int:
    """How many requests were given up."""
    from . import kserve_parts
    from .grpc import server as grpc_server
    from .metrics import Metrics
    from .rest import server as rest_server

    metrics = Metrics()
    kserve_parts.register_metrics(metrics.registry)

    def opened(name: str, folder: Any) -> Any:
        return open_model(folder, options, lambda rows, seconds: metrics.ran(name, rows, seconds), loader)

    store = Store(places, opened)
    regions = Regions() if options.shared_memory else None
    service, bearer = Service(store, options, metrics, regions), Bearer(options.token)
    stop = asyncio.Event()
    with contextlib.ExitStack() as held:
        log = AccessLog(options.access_log)
        held.callback(log.close)
        if regions:
            held.callback(regions.close)
        listener = _bound(options)
        held.callback(listener.close)
        http_port = listener.getsockname()[1]
        _on_signals(stop)
        held.callback(store.close)
        await _unless(stop, asyncio.to_thread(store.load_all))
        if stop.is_set():
            if give_up:
                give_up()
            return 0
        gc.collect()
        gc.freeze()  # what is loaded stays: collections need not look at it
        grpc_front = None
        port = None
        if options.grpc_port is not None:
            grpc_front, port, guests = grpc_server.server_of(service, bearer, log, options, certificates)
            await grpc_front.start()
            watch = asyncio.ensure_future(guests.watch(port))
            held.callback(watch.cancel)
        _listen(listener, options)
        application = rest_server.application(service, bearer, log, routes(service))
        http = rest_server.server_of(application, options, listener, certificates)
        watcher = Watcher(options.watch_s, store.refresh, *([certificates.refresh] if certificates else []))
        held.callback(watcher.close)
        async with _running(http) as task:
            say(_where(store.ready(), options, http_port, port))
            await _unless(stop, asyncio.shield(task))
            if not stop.is_set():
                raise EngineError("the HTTP server ended by itself; see the log")
            unanswered = await _drain(service, http, grpc_front)
            if unanswered:
                store.close(timeout_s=0)  # nobody waits for what it still computes
            return unanswered


@contextlib.asynccontextmanager
async def _running(http: Any) -> AsyncIterator["asyncio.Task[None]"]:
    """The HTTP server, from its start to its end."""
    task = asyncio.create_task(http.serve())
    try:
        while not http.started and not task.done():
            await asyncio.sleep(_TICK_S)
        yield task
    finally:
        http.should_exit = True
        await asyncio.wait({task})


async def _drain(service: Service, http: Any, grpc_front: Any) -> int:
    """Answer what was accepted; how many requests were given up."""
    service.draining = True
    clock = asyncio.get_running_loop().time
    end = clock() + service.options.grace_s
    await asyncio.sleep(min(service.options.lame_duck_s, service.options.grace_s))
    service.refusing = True
    http.stop_listening()
    quiet = clock()
    seen = service.handled
    while clock() < end and (service.under_way or clock() - quiet < _LINGER_S):
        if service.under_way or service.handled != seen:
            quiet, seen = clock(), service.handled
        await asyncio.sleep(_TICK_S)
    unanswered = service.under_way
    if grpc_front:
        await _say_good_bye(service, grpc_front, 0 if unanswered else max(1.0, end - clock()))
    return unanswered


async def _say_good_bye(service: Service, grpc_front: Any, grace_s: float) -> None:
    """End gRPC. It cancels what has arrived and no handler has yet: so whoever still asks is held by one until then."""
    service.good_bye = asyncio.Event()
    await asyncio.sleep(_HOLD_S)
    ends = asyncio.ensure_future(grpc_front.stop(grace_s))
    await asyncio.sleep(_TICK_S)
    service.good_bye.set()
    await ends


async def _unless(stop: asyncio.Event, work: Any) -> None:
    """Wait for `work`, or for `stop`. Raises what the work raises."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        task.result()
    else:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it any more


def _bound(options: ServeOptions) -> Any:
    from .rest import server as rest_server

    try:
        return rest_server.bound(options.host, options.http_port)
    except OSError as error:
        raise _cannot_listen(options, error) from None


def _listen(listener: Any, options: ServeOptions) -> None:
    """Have connections wait for who takes them. Raises EngineError where another began to meanwhile, at this port."""
    try:
        listener.listen(1024)
    except OSError as error:
        raise _cannot_listen(options, error) from None


def _cannot_listen(options: ServeOptions, error: OSError) -> EngineError:
    where = f"{options.host}:{options.http_port}"
    remedy = "give another --host or --http-port, or port 0 for any that is free"
    return EngineError(f"HTTP cannot listen on {where} ({error.strerror}); {remedy}")


def _on_signals(stop: asyncio.Event) -> None:
    """SIGTERM, SIGINT and SIGHUP ask for an end; outside of the main thread there are no signals."""
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):
        if signal.getsignal(number) is signal.SIG_IGN:  # as under nohup
            continue
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
        else:
            loop.add_signal_handler(number, stop.set)


def _where(names: Sequence[str], options: ServeOptions, http_port: int, grpc_port: int | None) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    scheme = "https" if options.tls_cert else "http"
    grpc = f" and grpc {host}:{grpc_port}" if grpc_port is not None else ""
    return f"serving {', '.join(names)} on {scheme}://{host}:{http_port}{grpc}"
