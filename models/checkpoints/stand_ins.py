"""What stands for the harmless objects that training scripts put beside their weights.

A pickle names functions and classes; reading it calls them. `HARMLESS` is the whole list of names that a checkpoint may
have beside torch's own, and what is called in the place of each: never the thing named, always one of the few here,
which keep what they are given or drop it. Nothing of NumPy, pathlib or a training framework is run or even imported.
"""

import argparse
import functools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBERS = re.compile(r"(b|[iuf][1248]|c8|c16)1?")  # the dtypes of numbers, as NumPy writes them: f4, i8, b1


class Inert:
    """In the place of an object that no one needs: takes anything, keeps nothing."""

    def __new__(cls, *args: Any) -> "Inert":
        """Drop what an instance would be made of."""
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        """Drop what an instance would be made of."""

    def __setstate__(self, state: Any) -> None:
        """Drop what an instance would hold."""


class Fields(argparse.Namespace):
    """In the place of a Namespace: its attributes, and nothing else."""

    def __init__(self, *args: Any) -> None:
        """Take no attribute yet; they come as state."""

    def __setstate__(self, state: Any) -> None:
        """Take the attributes."""
        if isinstance(state, dict):
            vars(self).update(state)


class Dict:
    """In the place of a dict's subclass: makes an OrderedDict, which is then filled."""

    def __new__(cls, *args: Any) -> Any:
        """Make the OrderedDict; a factory of defaults is dropped, a first dict is taken."""
        return OrderedDict(*(arg for arg in args[:1] if isinstance(arg, dict)))


class DType:
    """In the place of numpy.dtype: its name and byte order; only those of numbers can be used."""

    def __init__(self, name: Any = "", *flags: Any) -> None:
        """Take the name, like f4."""
        self.name, self.order = str(name), "="

    def __setstate__(self, state: Any) -> None:
        """Take the byte order, the second of the tuple that NumPy writes; drop the rest."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]

    def real(self) -> "np.dtype[Any] | None":
        """Return NumPy's own, None unless it is of numbers."""
        return np.dtype(self.order + self.name) if NUMBERS.fullmatch(self.name) else None


class Array:
    """In the place of numpy.ndarray: its shape, dtype and bytes."""

    def __init__(self, *args: Any) -> None:
        """Take nothing yet; all comes as state."""
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        """Take version, shape, dtype, whether columns come first, and the bytes."""
        self.state = state if isinstance(state, tuple) else ()

    def tensor(self) -> Tensor | None:
        """Return the numbers as a tensor; None where they are no numbers, or not as many as the shape says."""
        match self.state:
            case (_, tuple() as shape, DType() as dtype, fortran, bytes() as content) if real := dtype.real():
                try:
                    array = np.frombuffer(content, real).reshape(shape, order="F" if fortran else "C")
                    return torch.from_numpy(array.astype(real.newbyteorder("="), order="C", copy=True))
                except (ValueError, TypeError):
                    return None
        return None


def _scalar(dtype: Any = None, content: Any = None) -> Any:
    """In the place of NumPy's scalars: the Python number."""
    real = dtype.real() if isinstance(dtype, DType) else None
    if real is None or not isinstance(content, bytes) or len(content) != real.itemsize:
        return Inert()
    return np.frombuffer(content, real)[0].item()


def _list(*args: Any) -> list[Any]:
    """In the place of a deque: the list that is then filled."""
    return list(args[0]) if args and isinstance(args[0], list | tuple) else []


def _method(owner: Any = None, name: Any = None) -> Inert:
    """In the place of getattr, which mmengine's history needs for its own methods: nothing is looked up."""
    if owner is not History:
        raise ValueError("getattr of something else than a history's own methods")
    return Inert()


class History(Inert):
    """In the place of mmengine's HistoryBuffer."""


def _named(stand_in: Callable[..., Any], module: str, names: str) -> dict[str, Callable[..., Any]]:
    return {f"{module}.{name}": stand_in for name in names.split()}


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")

HARMLESS: Mapping[str, Callable[..., Any]] = {
    **_named(Fields, "argparse", "Namespace"),
    **_named(Fields, "types", "SimpleNamespace"),
    **_named(Inert, "builtins", "int float bool str bytes list dict tuple object slice range"),
    **_named(Inert, "builtins", "frozenset"),
    "builtins.getattr": _method,
    **_named(Dict, "collections", "defaultdict"),
    "collections.deque": _list,
    **_named(Inert, "datetime", "datetime date time timedelta timezone"),
    **_named(Inert, "decimal", "Decimal"),
    **_named(Inert, "fractions", "Fraction"),
    **_named(Inert, "uuid", "UUID SafeUUID"),
    **_named(Inert, "typing", "Any"),
    **{
        name: Inert
        for module in ("pathlib", "pathlib._local")
        for name in _named(Inert, module, "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath")
    },
    # NumPy: arrays, scalars, the types themselves, random states
    **{f"{module}._reconstruct": Array for module in _NUMPY},
    **{f"{module}.scalar": _scalar for module in _NUMPY},
    **_named(Array, "numpy", "ndarray"),
    **_named(DType, "numpy", "dtype"),
    **_named(Inert, "numpy", "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"),
    **_named(Inert, "numpy.random._pickle", "__randomstate_ctor __generator_ctor __bit_generator_ctor"),
    **_named(Inert, "numpy.random._mt19937", "MT19937"),
    **_named(Inert, "numpy.random._pcg64", "PCG64 PCG64DXSM"),
    **_named(Inert, "numpy.random._philox", "Philox"),
    **_named(Inert, "numpy.random._sfc64", "SFC64"),
    **_named(Inert, "numpy.random.bit_generator", "SeedSequence __pyx_unpickle_SeedSequence"),
    **_named(Inert, "torch.torch_version", "TorchVersion"),
    # configurations and histories of training frameworks
    **_named(Dict, "pytorch_lightning.utilities.parsing", "AttributeDict"),
    **_named(Dict, "lightning.pytorch.utilities.parsing", "AttributeDict"),
    **_named(Dict, "lightning_fabric.utilities.data", "AttributeDict"),
    **_named(Dict, "lightning.fabric.utilities.data", "AttributeDict"),
    **_named(Dict, "yacs.config", "CfgNode"),
    **_named(Dict, "fvcore.common.config", "CfgNode"),
    **_named(Dict, "addict.addict", "Dict"),
    **_named(Dict, "easydict", "EasyDict"),
    **_named(Dict, "mmcv.utils.config", "ConfigDict"),
    **_named(Dict, "mmengine.config.config", "ConfigDict"),
    **_named(History, "mmengine.logging.history_buffer", "HistoryBuffer"),
    **_named(Inert, "omegaconf.dictconfig", "DictConfig"),
    **_named(Inert, "omegaconf.listconfig", "ListConfig"),
    **_named(Inert, "omegaconf.base", "ContainerMetadata Metadata"),
    **_named(Inert, "omegaconf.nodes", "AnyNode IntegerNode FloatNode StringNode BooleanNode"),
}

# Those that torch.load allows by itself, outside torch.
TORCHS_OWN = frozenset(
    {"collections.OrderedDict", "collections.Counter", "_codecs.encode", "builtins.set", "builtins.complex"}
)


@functools.cache
def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return the list as torch.serialization.safe_globals takes it."""
    return [(stand_in, name) for name, stand_in in HARMLESS.items()]
