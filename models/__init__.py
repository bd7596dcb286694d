"""The training-time networks: VanillaNet, ParNet and RepVGG, by name.

`entries()` lists them, `create()` builds one. Importing this package builds nothing.
"""

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from plainconv.exporter.errors import SourceError

from . import parnet, repvgg, vanillanet
from .options import Option, problems_of, whole

__all__ = ["Entry", "create", "entries", "find"]

IMAGENET: Mapping[str, Any] = MappingProxyType(
    {
        "layout": "NCHW",
        "color": "RGB",
        "range": [0.0, 1.0],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
)
DIGITS: Mapping[str, Any] = MappingProxyType(
    {"layout": "NCHW", "color": "gray", "range": [0.0, 1.0], "mean": [0.3], "std": [0.4]}
)


@dataclass(frozen=True)
class Entry:
    """One network of the catalogue; its parameters are counted without allocating any.

    `takes` says in words which inputs fit, `input_shape` is the published one [N, C, H, W]. `preprocessing` says what
    an input holds: pixels scaled to `range`, then (x − mean) / std per channel, channels in the order of `color`.
    `heads` names the classifier's weight [num_classes, …] in the training and in the deploy form, and
    `options_from_state` reads off a state dict the options that its shapes tell.
    """

    name: str
    family: str
    build: Callable[..., nn.Module]
    options: Mapping[str, Option]
    input_shape: tuple[int, int, int, int]
    takes: str
    preprocessing: Mapping[str, Any]
    heads: tuple[str, str]
    options_from_state: Callable[[Mapping[str, Tensor]], dict[str, Any]]

    @property
    def params_training(self) -> int:
        """Parameters of the training form."""
        return _count_parameters(self.name, deploy=False)

    @property
    def params_plain(self) -> int:
        """Parameters of the deploy form; these are what the papers' tables count."""
        return _count_parameters(self.name, deploy=True)


def entries() -> Mapping[str, Entry]:
    """Every network by name, VanillaNet first."""
    return _CATALOGUE


def find(name: str) -> Entry:
    """Return the entry called `name`.

    Raises:
        SourceError: there is none; the message gives the closest names.
    """
    if name in _CATALOGUE:
        return _CATALOGUE[name]
    close = difflib.get_close_matches(name.lower().replace("-", "_"), _CATALOGUE, cutoff=0.5)
    remedy = f"did you mean {' or '.join(close)}?" if close else "`exporter models` lists them"
    raise SourceError(f"{name!r} is none of the {len(_CATALOGUE)} networks of the catalogue; {remedy}")


def create(name: str, *, deploy: bool = False, **options: Any) -> nn.Module:
    """Build a network with the published state-dict keys, freshly initialized, in train mode.

    Args:
        name: one of `entries()`.
        deploy: build the published deploy form in place of the training form.
        options: of the network; `entries()[name].options` has them, with defaults.

    Raises:
        SourceError: the name is unknown, or an option is unknown, of the wrong kind or does not fit the others.
    """
    entry = find(name)
    if problems := problems_of(options, entry.options):
        raise SourceError(f"{name}: {'; '.join(problems)}")
    try:
        return entry.build(deploy=deploy, **options)
    except ValueError as error:
        raise SourceError(f"{name}: {error}") from error


@functools.cache
def _count_parameters(name: str, *, deploy: bool) -> int:
    with torch.device("meta"):  # shapes without storage
        return sum(parameter.numel() for parameter in create(name, deploy=deploy).parameters())


def _vanillanet(name: str) -> Entry:
    adaptive = name.endswith("ada_pool")
    return _entry(
        name,
        "VanillaNet",
        functools.partial(vanillanet.VanillaNet, **vanillanet.VARIANTS[name]),
        vanillanet.ADA_POOL_OPTIONS if adaptive else vanillanet.OPTIONS,
        takes="any height and width" if adaptive else "heights and widths from 32 on",
        heads=("cls2.0.weight", "cls.2.weight"),
        options_from_state=vanillanet.options_from_state,
    )


def _parnet(name: str) -> Entry:
    return _entry(
        name,
        "ParNet",
        parnet.ParNet,
        parnet.options_of(name),
        takes="heights and widths that are multiples of 32",
        heads=("head.fc.weight", "head.fc.weight"),
    )


def _repvgg(name: str) -> Entry:
    return _entry(
        name,
        "RepVGG",
        functools.partial(repvgg.RepVGG, **repvgg.VARIANTS[name]),
        repvgg.OPTIONS,
        takes="any height and width",
        heads=("linear.weight", "linear.weight"),
    )


def _entry(
    name: str,
    family: str,
    network: Callable[..., nn.Module],
    options: Mapping[str, Option],
    *,
    takes: str,
    heads: tuple[str, str],
    options_from_state: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda state: {},
) -> Entry:
    digits = name.endswith("_digits")
    if digits:
        options = {**options, "num_classes": whole(10), "in_channels": whole(1)}
    return Entry(
        name,
        family,
        build=functools.partial(network, **{option: options[option].default for option in options}),
        options=MappingProxyType(dict(options)),
        input_shape=(1, 1, 32, 32) if digits else (1, 3, 224, 224),
        takes=takes,
        preprocessing=DIGITS if digits else IMAGENET,
        heads=heads,
        options_from_state=options_from_state,
    )


_CATALOGUE: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            *map(_vanillanet, vanillanet.VARIANTS),
            *map(_parnet, parnet.VARIANTS),
            *map(_repvgg, repvgg.VARIANTS),
        )
    }
)
