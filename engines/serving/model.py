"""One version of a model, loaded: what it takes and gives, its queue, and who is using it."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from plainconv.exporter.bundle import Bundle, identity
from plainconv.exporter.errors import BundleError, EngineError, PlainconvError

from ..bench import random_inputs
from ..predict.predictor import Predictor, predictor_of
from .backend import Loaded, Loader, load_here
from .batch_axis import Covering, batch_axis
from .batcher import Batcher, BatchRules
from .options import ServeOptions

_ATTEMPTS = 5  # at a bundle that is replaced while it is loaded
Observe = Callable[[int, float], None]


def _nobody(rows: int, seconds: float) -> None:
    """Observes nothing."""


class Model:
    """A loaded model. Whoever uses it holds it by `use`; once retired it closes itself after its last user."""

    def __init__(
        self, folder: Path, bundle: Bundle, loaded: Loaded, options: ServeOptions, observe: Observe = _nobody
    ) -> None:
        """Of the bundle in `folder`; `observe` is told of every run: its rows, and the seconds it took."""
        self.sha256, self.inputs, self.outputs = bundle.sha256, bundle.inputs, bundle.outputs
        self.report = Path(f"{os.path.abspath(folder)}.html")
        self.predictor = _predictor(bundle)
        self.backend, self.precision, self.profiles = loaded.runtime, loaded.precision, loaded.profiles
        open_axis = batch_axis(self.inputs, self.outputs) is not None
        names = tuple(spec.name for spec in self.inputs)
        self.covering = Covering(names, options.max_batch, self.profiles) if open_axis else None
        rules = BatchRules(self.covering, options.max_delay_us / 1e6, options.max_queue, loaded.workers)
        self.batcher = Batcher(loaded.backend, rules, observe)
        self.workers, self._run_by = loaded.workers, loaded.backend
        self._lock = threading.Lock()
        self._users, self._retired = 0, False
        self.closed = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether what runs it lost its device: it answers no more, until it is loaded again."""
        return bool(getattr(self._run_by, "lost", False))

    @property
    def platform(self) -> str:
        """The protocol's word for what runs it."""
        return "onnxruntime_onnx" if self.backend == "onnxruntime" else "tensorrt_plan"

    @contextmanager
    def use(self) -> Iterator["Model"]:
        """Keep it open meanwhile."""
        with self._lock:
            self._users += 1
        try:
            yield self
        finally:
            with self._lock:
                self._users -= 1
                is_last = self._retired and not self._users
            if is_last:
                self._close_soon()

    def retire(self) -> None:
        """Close it as soon as nobody uses it; nobody may begin to."""
        with self._lock:
            was_retired, self._retired = self._retired, True
            is_free = not was_retired and not self._users
        if is_free:
            self._close_soon()

    def _close_soon(self) -> None:
        """Not in the caller's thread, which may be the event loop's."""
        threading.Thread(target=self._close, name="model-close", daemon=True).start()

    def _close(self) -> None:
        try:
            self.batcher.close()
        finally:
            self.closed.set()


def open_model(folder: Path, options: ServeOptions, observe: Observe = _nobody, loader: Loader = load_here) -> Model:
    """The bundle in `folder`, loaded by `loader` and run once.

    Raises BundleError where it does not open, EngineError where nothing here runs it.
    """
    for _ in range(_ATTEMPTS):
        bundle = Bundle.open(os.path.realpath(folder))  # a link may be pointed elsewhere, and back
        try:
            loaded = loader(bundle, options)
        except (PlainconvError, OSError):
            if identity(folder) == bundle.sha256:
                raise
            continue
        try:
            is_same = identity(folder) == bundle.sha256  # else its files may be those of the next version
            if is_same:
                _warm_up(loaded, bundle)
                return Model(folder, bundle, loaded, options, observe)
        except BaseException:
            loaded.backend.close()
            raise
        loaded.backend.close()
    raise BundleError(f"{folder}: is replaced again and again while it is loaded; try again later")


def _predictor(bundle: Bundle) -> Predictor | str:
    """What makes answers about images; where the bundle says too little of them, what it lacks."""
    try:
        return predictor_of(bundle.manifest)
    except EngineError as error:
        return str(error)


def _warm_up(loaded: Loaded, bundle: Bundle) -> None:
    """Run it once, where its shapes say how. Raises EngineError where it does not give what the bundle says."""
    axis = batch_axis(bundle.inputs, bundle.outputs)
    if any(isinstance(size, str) and size != axis for spec in bundle.inputs for size in spec.shape):
        return
    batch = next((covered.min[0] for profile in loaded.profiles for covered in profile.values()), 1)
    fixed = bundle.inputs[0].shape[:1]
    rows = fixed[0] if fixed and isinstance(fixed[0], int) else batch
    given = loaded.backend.predict(random_inputs(bundle.inputs, rows))
    for spec in bundle.outputs:
        array = given.get(spec.name)
        if array is None or array.dtype.name != spec.dtype or len(array.shape) != len(spec.shape):
            found = "nothing" if array is None else f"{array.dtype.name} {list(array.shape)}"
            raise EngineError(f"{bundle.folder}: gives {found} as {spec.name}, its manifest says {spec}; export again")
