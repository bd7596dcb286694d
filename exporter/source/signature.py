"""How `forward` is called: its tensors by name, whatever tuples, lists and dicts its parameters take.

forward(rgb, depth)  on (a, b) -> rgb, depth;    forward(image, boxes)  on (a, [b, c]) -> image, boxes_0, boxes_1
forward(x, *, scale) on {"x": a, "scale": b} -> x, scale;    forward(*xs) on (a, b) -> xs_0, xs_1
"""

import enum
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten_with_path, tree_map, tree_unflatten

from ..bundle.tensor import DTYPES
from ..errors import SourceError, first_line
from .names import joined

ONLY = "input"
"""The name of an input of which nothing but the shape was given."""
_CONSTANTS = (bool, int, float, str, bytes, type(None), enum.Enum, torch.dtype, torch.device)
_TENSOR = object()
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Call:
    """One call of a network: `inputs` are its tensors by name, in the order in which forward takes them.

    `leaves` and `spec` are the pytree of (args, kwargs), each tensor in it a mark: numbers and words stay as they are.
    """

    inputs: Mapping[str, Tensor]
    leaves: tuple[Any, ...]
    spec: TreeSpec

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with these tensors in the places of the inputs."""
        rest = iter(tensors)
        args, kwargs = tree_unflatten([next(rest) if leaf is _TENSOR else leaf for leaf in self.leaves], self.spec)
        return args, kwargs

    def run(self, module: nn.Module, tensors: Sequence[Tensor] | None = None) -> Any:
        """What `module` returns for these tensors, or for its example."""
        args, kwargs = self.arguments(tuple(self.inputs.values()) if tensors is None else tensors)
        return module(*args, **kwargs)

    @property
    def is_flat(self) -> bool:
        """Whether forward takes just these tensors, by position."""
        args, kwargs = self.arguments([torch.empty(0)] * len(self.inputs))
        return not kwargs and all(isinstance(each, Tensor) for each in args)

    def __str__(self) -> str:
        if list(self.inputs) == [ONLY]:
            return f"shape {','.join(map(str, self.inputs[ONLY].shape))}"
        return spelled_tensors(self.inputs)


def spelled_tensors(tensors: Mapping[str, Tensor]) -> str:
    """As `rgb float32[1, 3, 8, 8], depth …`."""
    return ", ".join(f"{name} {_type_of(x)}{list(x.shape)}" for name, x in tensors.items())


def call_of_tensor(x: Tensor) -> Call:
    """The call of a network with `x` alone, of whatever name."""
    return _call({ONLY: x}, ((x,), {}))


def call_of_example(module: nn.Module, example: Any) -> Call:
    """The call that an example stands for: a tuple is arguments, a dict is keyword arguments, else it is one argument.

    Raises SourceError where it does not fit forward, and for what is neither a tensor nor a constant in it.
    """
    args = example if type(example) is tuple else () if isinstance(example, dict) else (example,)
    kwargs = example if isinstance(example, dict) else {}
    signature = signature_of(module)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise SourceError(
            f"the example does not fit {spelled(signature)} ({first_line(error)}); give a tuple of its arguments, or a "
            "dict of them by name"
        ) from error
    return _call_of_bound(bound)


def call_by_name(module: nn.Module, tensors: Mapping[str, Tensor]) -> Call:
    """The call of forward with each tensor for the parameter of its name.

    Raises SourceError for a name that it has no parameter for, and a parameter that it wants and that is missing.
    """
    signature = signature_of(module)
    named = {p.name: p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    rest = {p.kind: p.name for p in signature.parameters.values() if p.name not in named}
    others = {name: x for name, x in tensors.items() if name not in named}
    if others and not rest:
        raise SourceError(f"there is no input {next(iter(others))}: it is {spelled(signature)}; give its parameters")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in tensors]
    if missing:
        raise SourceError(
            f"no input is given for {missing[0]} of {spelled(signature)}; add --input {missing[0]}=SHAPE, or give "
            "every one of them by --inputs F.npz or example_inputs()"
        )
    arguments: dict[str, Any] = {}
    for name, p in signature.parameters.items():
        if name in named and name in tensors:
            arguments[name] = tensors[name]
        elif p.kind is p.VAR_KEYWORD or (p.kind is p.VAR_POSITIONAL and p.VAR_KEYWORD not in rest):
            arguments[name] = others if p.kind is p.VAR_KEYWORD else tuple(others.values())
    bound = inspect.BoundArguments(signature, OrderedDict(arguments))
    varied = inspect.Parameter.VAR_POSITIONAL in rest and inspect.Parameter.VAR_KEYWORD not in rest
    return _call_of_bound(bound, tuple(others) if varied else ())


def signature_of(module: nn.Module) -> inspect.Signature:
    """Of forward, without self; of what has none that can be told, any."""
    try:
        return inspect.signature(module.forward)
    except (TypeError, ValueError):
        return inspect.signature(lambda *inputs: None)


def spelled(signature: inspect.Signature) -> str:
    """As `forward(rgb, depth, *, scale=1)`."""
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return f"forward{signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)}"


def flat_signature(names: Sequence[str]) -> inspect.Signature:
    """Of a forward that takes tensors of these names by position."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in ("self", *names)])


def tensor_of(shape: Sequence[int], dtype: str, generator: torch.Generator) -> Tensor:
    """A random tensor: normal floats, bytes of pixels, and other integers of 0 and 1, which index whatever there is."""
    kind = getattr(torch, dtype)
    if kind.is_floating_point:
        return torch.randn(tuple(shape), generator=generator).to(kind)
    return torch.randint(0, 256 if kind == torch.uint8 else 2, tuple(shape), generator=generator).to(kind)


def _call_of_bound(bound: inspect.BoundArguments, names: Sequence[str] = ()) -> Call:
    """`names` are those of the tensors in *args, where they have their own."""
    positional: list[str] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind in _POSITIONAL:
            positional.append(name)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            positional += names or [f"{name}_{i}" for i in range(len(value))]
    tree = tree_map(_as_tensor, (bound.args, bound.kwargs))
    found: dict[str, Tensor] = {}
    for name, value in _named(tree, positional):
        if isinstance(value, Tensor):
            if name in found:
                raise SourceError(f"two inputs are called {name}; give keys that differ in letters and digits")
            found[name] = _checked(name, value)
        elif not isinstance(value, _CONSTANTS):
            raise SourceError(f"the example has a {type(value).__name__} as {name}; wanted tensors, or plain constants")
    if not found:
        raise SourceError(f"the example has no tensor for {spelled(bound.signature)}; wanted one or more")
    return _call(found, tree)


def _call(inputs: Mapping[str, Tensor], tree: Any) -> Call:
    pairs, spec = tree_flatten_with_path(tree)
    return Call(dict(inputs), tuple(_TENSOR if isinstance(leaf, Tensor) else leaf for _, leaf in pairs), spec)


def _named(tree: Any, positional: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each leaf of (args, kwargs) and its name."""
    for path, leaf in tree_flatten_with_path(tree)[0]:
        keys = [getattr(key, "idx", getattr(key, "key", getattr(key, "name", key))) for key in path]
        where, first, *rest = keys
        name = str(first) if where else positional[int(str(first))]
        for key in rest:
            name = joined(name, str(key))
        yield name, leaf


def _as_tensor(value: Any) -> Any:
    """An array as a tensor; float64, which is what NumPy makes where nobody asks, as float32."""
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "biuf":
        return value
    return torch.from_numpy(np.array(value, np.float32 if value.dtype == np.float64 else None, order="C"))


def _checked(name: str, x: Tensor) -> Tensor:
    """A tensor of one's own like `x`, on the CPU. Raises SourceError for a type that ONNX has none for."""
    if _type_of(x) not in DTYPES or x.layout != torch.strided or not x.numel():
        found = "without elements" if not x.numel() else f"{_type_of(x)}, {x.layout}".replace("torch.", "")
        raise SourceError(f"the input {name} is {found}; wanted a dense tensor of {', '.join(DTYPES)}")
    return x.detach().cpu().contiguous().clone()


def _type_of(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
