"""What runs a network: one call from named arrays to named arrays, whatever runtime is behind it."""

import abc
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

Array = np.ndarray[Any, Any]
Profiles = Sequence[Mapping[str, ShapeRange]]
Span = tuple[str, str, int, int]
"""A tensor's name, the memory it is in, where it begins there, and where it ends."""

_MOST_SHAPES = 1024  # that a check remembers
_CUDA, _MANAGED = 2, 13  # DLPack's device types


class Runner(abc.ABC):
    """A network ready to run, from any number of threads. Use it in a `with` block.

    `runner({"input": x_NCHW})` gives {"logits": y_NK} in new arrays; `runner(inputs, {"logits": mine_NK})` writes that
    output into `mine_NK` and gives it back.
    """

    backend: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: Profiles = ()  # of the engine; none where it takes every shape that `inputs` allows
    predictor: Callable[[Any, Any], Any] | None = None  # what its bundle says of images; `load` sets it

    @abc.abstractmethod
    def __call__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run once. Raises EngineError where the arrays are not those of `inputs` and `outputs`, or the run fails."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything that is held. Closing twice does nothing."""

    @property
    def lost(self) -> bool:
        """Whether every further call raises at once, as a GPU failed or did not end its work in time."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know of how it runs, each in one line."""
        return ()

    def predict(self, image: Any) -> Any:
        """What the network says of an image: a path, a file's bytes, a Pillow image, or uint8 [H, W, 3], RGB.

        A list, the best first, of `Class` (label, number, score), `Box` (and xyxy in pixels of the image) or `Segment`
        (and its mask, bool [H, W]), see `engines.predict`. Raises ImageError for what is no image, EngineError where
        the bundle says nothing of images or the run fails.
        """
        if self.predictor is None:
            raise EngineError("the runner is of no bundle, which says how an image becomes an input; engines.load one")
        return self.predictor(self, image)

    def stages(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        """Milliseconds on the device of one call, by stage; empty where there is no device with a clock of its own."""
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class InputCheck:
    """`check_inputs` for one network. Arrays of shapes and dtypes that have passed once pass in under a microsecond."""

    def __init__(
        self, specs: tuple[TensorSpec, ...], profiles: Profiles = (), kinds: tuple[type[Any], ...] = ()
    ) -> None:
        """Arrays of `kinds` are taken like NumPy's; they have `shape`, `dtype` and `flags.c_contiguous`."""
        self._specs, self._profiles = specs, profiles
        self._names = tuple(spec.name for spec in specs)
        self._kinds: tuple[type[Any], ...] = (np.ndarray, *kinds)
        self._passed: dict[tuple[Any, ...], int] = {}

    def __call__(self, inputs: Mapping[str, Any]) -> int:
        """The index of the first profile that covers `inputs`. Raises EngineError as `check_inputs` does."""
        check_mapping("input", inputs)
        key: tuple[Any, ...] = ()
        for name in self._names:
            array: Any = inputs.get(name)
            if type(array) not in self._kinds or not array.flags.c_contiguous:
                return check_inputs(inputs, self._specs, self._profiles, self._kinds)
            key += (array.shape, array.dtype)
        profile = self._passed.get(key)
        if profile is None or len(inputs) != len(self._names):
            profile = check_inputs(inputs, self._specs, self._profiles, self._kinds)
            if len(self._passed) < _MOST_SHAPES:
                self._passed[key] = profile
        return profile


def check_inputs(
    inputs: Mapping[str, Any],
    specs: tuple[TensorSpec, ...],
    profiles: Profiles = (),
    kinds: tuple[type[Any], ...] = (np.ndarray,),
) -> int:
    """The index of the optimization profile for `inputs`, as `profile_for` says.

    Raises EngineError, in one line, at the first difference from what `specs` describe, and as `profile_for` does.
    """
    check_mapping("input", inputs)
    if set(inputs) != {spec.name for spec in specs}:
        raise EngineError(f"inputs are {_names(inputs)}, wanted {_names(spec.name for spec in specs)}")
    sizes: dict[str, int] = {}
    for spec in specs:
        _check_array("input", inputs[spec.name], spec, sizes, kinds)
    return profile_for(inputs, specs, profiles)


def profile_for(inputs: Mapping[str, Any], specs: tuple[TensorSpec, ...], profiles: Profiles) -> int:
    """The index of the first of the optimization profiles that covers `inputs`; 0 where there is no profile.

    Raises EngineError, in one line, where no profile covers their shapes.
    """
    for index, profile in enumerate(profiles):
        if all(covers(covered, inputs[name].shape) for name, covered in profile.items()):
            return index
    if profiles:
        covered = {name for profile in profiles for name in profile}
        found = ", ".join(f"{spec.name} {list(inputs[spec.name].shape)}" for spec in specs if spec.name in covered)
        ranges = "; ".join(_described(index, profile) for index, profile in enumerate(profiles))
        raise EngineError(
            f"{found} is in no optimization profile of the engine ({ranges}); split it, or build the engine for it"
        )
    return 0


def check_outputs(
    outputs: Mapping[str, Any],
    specs: tuple[TensorSpec, ...],
    shapes: Mapping[str, tuple[int, ...]],
    kinds: tuple[type[Any], ...] = (np.ndarray,),
) -> None:
    """Whether the caller's `outputs` can take results; `shapes` are those of the call, as far as they are known.

    Raises EngineError at the first that cannot, in one line.
    """
    check_mapping("output", outputs)
    known = {spec.name: spec for spec in specs}
    if not outputs.keys() <= known.keys():
        raise EngineError(f"outputs are {_names(outputs)}, wanted some of {_names(known)}")
    sizes: dict[str, int] = {}
    for name, array in outputs.items():
        spec = known[name]
        wanted = TensorSpec(name, spec.dtype, shapes.get(name, spec.shape))
        _check_array("output", array, wanted, sizes, kinds)
        if not array.flags.writeable:
            raise EngineError(f"output {name} is read-only; give an array that can be written")


def check_apart(inputs: Sequence[Span], outputs: Sequence[Span]) -> None:
    """Raise EngineError for an output that overlaps an input or another output: one would spoil the other."""
    seen = [(f"input {name}", place, low, high) for name, place, low, high in inputs]
    for name, place, low, high in outputs:
        for other, other_place, other_low, other_high in seen:
            if low < other_high and other_low < high and place == other_place:
                raise EngineError(f"output {name} lies in the memory of {other}; give it an array of its own")
        seen.append((f"output {name}", place, low, high))


def check_mapping(role: str, arrays: Any) -> None:
    """Raise EngineError where `arrays` is not a mapping, from names to arrays."""
    if type(arrays) is not dict and not isinstance(arrays, Mapping):
        raise EngineError(f"{role}s are a {type(arrays).__name__}, wanted arrays by name, as in {{'{role}': x}}")


def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype of this name, NumPy's own or one of ml_dtypes, as bfloat16 is. Raises EngineError for no dtype."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        if not hasattr(ml_dtypes, name):
            raise EngineError(
                f"unknown dtype {name!r}, wanted one that NumPy or ml_dtypes has; build it again"
            ) from None
        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype


def on_gpu(array: Any) -> bool:
    """Whether an array says that it lies in GPU memory, by DLPack or the CUDA array interface."""
    if isinstance(array, np.ndarray):
        return False
    device = getattr(array, "__dlpack_device__", None)
    return device()[0] in (_CUDA, _MANAGED) if device else hasattr(array, "__cuda_array_interface__")


def _check_array(role: str, array: Any, spec: TensorSpec, sizes: dict[str, int], kinds: tuple[type[Any], ...]) -> None:
    """Whether an array is what `spec` describes; `sizes` has the sizes of the named axes so far, and takes more."""
    what = f"{role} {spec.name}"
    if not isinstance(array, kinds):
        kind = type(array).__name__
        if on_gpu(array):
            raise EngineError(f"{what} is a {kind} on the GPU, and this runner is on the CPU; copy it to the host")
        raise EngineError(f"{what} is a {kind}, wanted a NumPy array; np.asarray it")
    if array.dtype.name != spec.dtype or not array.dtype.isnative:
        remedy = f"give it .astype({spec.dtype!r})" if role == "input" else "make it of that dtype"
        raise EngineError(f"{what} is {array.dtype!r}, wanted {spec.dtype}; {remedy}")
    same_rank = len(array.shape) == len(spec.shape)
    if not same_rank or not all(_fits(size, axis, sizes) for size, axis in zip(array.shape, spec.shape, strict=True)):
        known = f" where {', '.join(f'{k} = {v}' for k, v in sizes.items())}" if same_rank and sizes else ""
        raise EngineError(f"{what} has shape {list(array.shape)}, wanted [{', '.join(map(str, spec.shape))}]{known}")
    if not array.flags.c_contiguous:
        remedy = "give np.ascontiguousarray of it" if role == "input" else "give one that is"
        raise EngineError(f"{what} is not contiguous in memory; {remedy}")


def _fits(size: int, axis: int | str, sizes: dict[str, int]) -> bool:
    """Whether an axis of this size may stand where `axis` is wanted; a name wants one size wherever it stands."""
    if isinstance(axis, int):
        return size == axis
    return size >= 1 and sizes.setdefault(axis, size) == size


def covers(covered: ShapeRange, shape: tuple[int, ...]) -> bool:
    """Whether a shape of the same rank lies in a range."""
    return all(low <= size <= high for low, size, high in zip(covered.min, shape, covered.max, strict=True))


def _described(index: int, profile: Mapping[str, ShapeRange]) -> str:
    ranges = ", ".join(f"{name} {list(covered.min)} to {list(covered.max)}" for name, covered in profile.items())
    return f"profile {index}: {ranges}"


def _names(names: object) -> str:
    return ", ".join(sorted(map(str, names))) or "none"  # type: ignore[call-overload]
