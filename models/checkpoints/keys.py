"""Names of weights as wrappers and old versions of torch write them, and as a network has them.

`canonical` gives the one name that all spellings of a weight share, whether a file's or a network's:

    module.conv.weight, _orig_mod.conv.weight, conv.module.weight    conv.weight
    conv.weight_g, conv.weight_v          conv.parametrizations.weight.original0, .original1
    conv.weight_orig, .weight_u, .weight_v    conv.parametrizations.weight.original, .0._u, .0._v
    conv.weight_orig, .weight_mask        conv.parametrizations.weight.original, .0.mask
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
PRUNED = {"_orig": "original", "_mask": "0.mask"}

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
    for spellings in (SPECTRAL_NORM, WEIGHT_NORM, PRUNED):
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
    """Replace parametrized weights by what they come to, for a network that is not parametrized.

        weight norm      w = g · v / ‖v‖,  the norm over all axes along which g has one element
        spectral norm    w = v / (uᵀ · V · z),  V the matrix of v whose rows are those of u (Miyato et al. 2018, eq. 8)
        pruning          w = v · mask

    In float64, rounded once. The weight takes the place of the first of its parts.
    """
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for name in state:
        owner, parametrizations, rest = name.rpartition("parametrizations.")
        weight, _, last = rest.partition(".")
        if parametrizations:
            parts[owner + weight][last] = name
    plain: dict[str, Tensor] = dict(state)
    for weight, names in parts.items():
        known = {last: state[name] for last, name in names.items()}
        made = _made_of(known) if all(tensor.is_floating_point() for tensor in known.values()) else None
        if made is not None:
            plain = {name: tensor for name, tensor in plain.items() if name not in names.values()} | {weight: made}
    return plain


def holder_of(weight: str, holders: Mapping[str, str]) -> str:
    """Name the dict that a weight of `fused_weights` came from: that of its first part."""
    owner, dot, name = weight.rpartition(".")
    parts = f"{owner}{dot}parametrizations.{name}."
    return next(holder for part, holder in holders.items() if part.startswith(parts))


def _made_of(parts: Mapping[str, Tensor]) -> Tensor | None:
    """The weight that the parts of a parametrization make; None where they are no known one, or do not fit."""
    match parts:
        case {"original0": g, "original1": v} if len(parts) == 2 and g.ndim in (0, v.ndim):
            axes = [axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1]
            norm: Tensor = torch.linalg.vector_norm(v.double(), dim=axes, keepdim=True)
            return (g.double() * v.double() / norm).to(v.dtype)
        case {"original": v, "0._u": u, "0._v": z} if len(parts) == 3 and u.ndim == z.ndim == 1:
            rows = next((axis for axis in (0, 1) if v.ndim > 1 and v.shape[axis] == u.numel()), None)
            if rows is None or v.numel() != u.numel() * z.numel():
                return None
            sigma = u.double() @ v.double().movedim(rows, 0).flatten(1) @ z.double()
            return (v.double() / sigma).to(v.dtype)
        case {"original": v, "0.mask": mask} if len(parts) == 2 and v.shape == mask.shape:
            return v * mask.to(v.dtype)
        case _:
            return None
