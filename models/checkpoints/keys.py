"""Names of weights as wrappers and old versions of torch write them, and as a network has them.

`canonical` gives the one name that all spellings of a weight share, whether a file's or a network's:

    module.conv.weight, _orig_mod.conv.weight, conv.module.weight    conv.weight
    conv.weight_g, conv.weight_v          conv.parametrizations.weight.original0, .original1
    conv.weight_orig, .weight_u, .weight_v    conv.parametrizations.weight.original, .0._u, .0._v
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

# DistributedDataParallel, AveragedModel, DeepSpeed · torch.compile · FSDP · activation checkpoints · Fabric
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})

WEIGHT_NORM = {"_g": "original0", "_v": "original1"}
SPECTRAL_NORM = {"_orig": "original", "_u": "0._u", "_v": "0._v"}

COUNTERS = frozenset({"total_ops", "total_params", "n_averaged", "num_updates", "steps", "step", "decay", "initted"})
LOSSES = frozenset({"criterion", "criterions", "criteria", "loss", "losses", "loss_fn", "loss_func", "loss_function"})
AVERAGES = frozenset({"ema", "swa", "averaged", "average", "shadow"})
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def canonical(keys: Iterable[str]) -> dict[str, str]:
    """Map the canonical name of each key to the key; keys whose canonical names meet keep their own."""
    keys = list(keys)
    known = set(keys)
    names = {key: without_wrappers(_parametrized(key, known)) for key in keys}
    uses = Counter(names.values())
    return {(name if uses[name] == 1 else key): key for key, name in names.items()}


def without_wrappers(key: str) -> str:
    """Take out the parts that wrappers put in."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _parametrized(key: str, known: Collection[str]) -> str:
    stem, underline, last = key.rpartition("_")
    ending = underline + last
    for spellings in (SPECTRAL_NORM, WEIGHT_NORM):
        if ending in spellings and all(stem + other in known for other in spellings):
            owner, dot, name = stem.rpartition(".")
            return f"{owner}{dot}parametrizations.{name}.{spellings[ending]}"
    return key


def starts_of(key: str) -> Iterable[int]:
    """Yield where the key's parts begin: 0, and behind each dot."""
    yield 0
    for position, letter in enumerate(key):
        if letter == ".":
            yield position + 1


def prefixes(found: Iterable[str], wanted: Mapping[str, str]) -> dict[str, set[str]]:
    """Find which of the wanted names stand behind each prefix; names that mean the same weight count once.

    Given found a.w, a.b, c.w and wanted {w: w, b: b} → {"a.": {w, b}, "c.": {w}}.
    """
    behind: dict[str, set[str]] = defaultdict(set)
    for key in found:
        for start in starts_of(key):
            if (name := key[start:]) in wanted:
                behind[key[:start]].add(wanted[name])
    return behind


def common_prefix(keys: Collection[str]) -> str:
    """Return the parts that all keys begin with, at least one part of each left over; with the dot."""
    parts = [key.split(".")[:-1] for key in keys]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0] + ".")
    return "".join(shared)


def is_counter(name: str, tensor: Tensor) -> bool:
    """Whether training or a profiler counts there, or keeps what is no weight of any network."""
    last = name.rpartition(".")[2]
    return last == "_extra_state" or (last in COUNTERS and tensor.numel() <= 1)


def is_loss(name: str) -> bool:
    """Whether it belongs to the loss, which only training has."""
    return name.partition(".")[0] in LOSSES


def is_average(prefix: str) -> bool:
    """Whether a part of the prefix calls its weights averaged: model_ema, EMACallback, emaModel, swa_model."""
    return any(word.lower() in AVERAGES for word in WORDS.findall(prefix))


def fused_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace weight-normed pairs by the weights that they make, for a network without weight norm.

        w = g · v / ‖v‖,  the norm over all axes along which g has one element

    In float64, rounded once.
    """
    plain = dict(state)
    for name in state:
        owner, parametrizations, rest = name.rpartition("parametrizations.")
        weight, _, last = rest.partition(".")
        partner = f"{owner}{parametrizations}{weight}.original1"
        if not parametrizations or last != "original0" or partner not in state:
            continue
        g, v = plain.pop(name), plain.pop(partner)
        if g.is_floating_point() and v.is_floating_point() and g.ndim in (0, v.ndim):
            axes = [axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1]
            norm = torch.linalg.vector_norm(v.double(), dim=axes, keepdim=True)
            plain[owner + weight] = (g.double() * v.double() / norm).to(v.dtype)
    return plain
