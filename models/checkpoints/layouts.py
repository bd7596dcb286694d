"""Where in a checkpoint the weights lie: under any entry and any prefix, told by the names of the network's own.

The whole file is seen as one state dict, its keys joined by dots. A *reading* is a prefix behind which every name of
the network stands: `state_dict.model.` of {"state_dict": {"model.conv.weight": …}}.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plainconv.exporter.errors import CheckpointError

from .content import Checkpoint, some
from .keys import canonical, fused_weights, holder_of, is_average, is_counter, is_loss, prefixes

BARE = "the file itself"


@dataclass(frozen=True)
class Weights:
    """One reading of a checkpoint.

    Attributes:
        name: where they are, in words: the prefix without its dot.
        state: what stands behind the prefix, by canonical names; also what the network does not know.
        aside: entries among them that no network needs: counters, the loss, what is no tensor.
        beside: entries of the same dict that stand behind no or another prefix.
        ema: whether their place calls them averaged.
        others: names of the readings that fit too.
    """

    name: str
    state: Mapping[str, Tensor]
    aside: tuple[str, ...]
    beside: tuple[str, ...]
    ema: bool
    others: tuple[str, ...] = ()


def readings(checkpoint: Checkpoint, wanted: Mapping[str, str]) -> list[Weights]:
    """Read the weights in every way in which nothing is missing.

    Args:
        checkpoint: the file's content.
        wanted: maps each name that must be there to itself, or to another that means the same weight.
    """
    found = _Found(checkpoint, wanted)
    behind = prefixes(found.state, wanted)
    needed = set(wanted.values())
    return [found.weights(prefix) for prefix, names in behind.items() if names == needed]


def nearest(checkpoint: Checkpoint, wanted: Mapping[str, str]) -> Weights:
    """Read the weights in the way in which least is missing: half of the names at least, else the largest dict."""
    found = _Found(checkpoint, wanted)
    behind = prefixes(found.state, wanted)
    best = max(behind, key=lambda prefix: len(behind[prefix]), default="")
    if behind and 2 * len(behind[best]) >= len(set(wanted.values())):
        return found.weights(best)
    holders = list(found.holders.values())
    largest = max(dict.fromkeys(holders), key=holders.count)
    return found.weights(f"{largest}." if largest else "")


class _Found:
    """The tensors of a checkpoint by canonical names, and the dict that each is in."""

    def __init__(self, checkpoint: Checkpoint, wanted: Mapping[str, str]) -> None:
        names = canonical(checkpoint.tensors)
        self.wanted = wanted
        self.others = checkpoint.others
        self.state = {name: checkpoint.tensors[path] for name, path in names.items()}
        self.holders = {name: checkpoint.holders[path] for name, path in names.items()}
        if not any("parametrizations." in name for name in wanted):
            self.state = fused_weights(self.state)
            made = self.state.keys() - self.holders.keys()
            self.holders |= {name: holder_of(name, self.holders) for name in made}

    def weights(self, prefix: str) -> Weights:
        behind = {name.removeprefix(prefix): name for name in self.state if name.startswith(prefix)}
        taken = [name for name in behind if name in self.wanted] or list(behind)
        holders = {self.holders[behind[name]] for name in taken}
        state, aside, beside = {name: self.state[behind[name]] for name in taken}, [], []
        for name, tensor in self.state.items():
            if self.holders[name] not in holders:
                continue
            short = name.removeprefix(prefix)
            if not name.startswith(prefix):
                beside.append(name)
            elif short not in state and (is_counter(short, tensor) or is_loss(short)):
                aside.append(name)
            else:
                state[short] = tensor
        for holder in holders:
            aside.extend(f"{holder}.{name}" if holder else name for name in self.others.get(holder, ()))
        where = prefix.removesuffix(".") or BARE
        return Weights(where, state, tuple(aside), tuple(beside), is_average(prefix))


def settle(checkpoint: Checkpoint, fitting: Sequence[Weights], ema: bool | None) -> Weights:
    """Choose among readings that fit, at least one: --ema and --no-ema choose, else the plain weights are taken.

    Raises:
        CheckpointError: there are none of the kind asked for, or several that differ.
    """
    file = checkpoint.path.name
    plain = [weights for weights in fitting if not weights.ema]
    averaged = [weights for weights in fitting if weights.ema]
    if ema and not averaged:
        raise CheckpointError(f"{file}: no EMA weights in it, found {plain[0].name}; leave --ema out")
    if ema is False and not plain:
        raise CheckpointError(f"{file}: only EMA weights in it, found {averaged[0].name}; leave --no-ema out")
    pool = averaged if ema else plain or averaged
    different = list(_different(pool))
    if len(different) > 1:
        names = [weights.name for weights in different]
        keys = [name for name in names if name != BARE]
        remedy = " or ".join(f"--key {name}" for name in keys[:3])
        if BARE in names:
            remedy = f"{remedy}, or --drop '{keys[0]}.*'"
        raise CheckpointError(f"{file}: {' and '.join(names[:3])} both fit and differ; say which: {remedy}")
    chosen = pool[0]
    return replace(chosen, others=tuple(weights.name for weights in fitting if weights is not chosen))


def _different(pool: Sequence[Weights]) -> Iterator[Weights]:
    """Leave out readings of the same numbers."""
    seen: list[Weights] = []
    for weights in pool:
        if not any(_same(weights.state, other.state) for other in seen):
            seen.append(weights)
            yield weights


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor is other[name] or (tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]))
        for name, tensor in one.items()
    )


def left_out(checkpoint: Checkpoint, weights: Weights) -> tuple[str, ...]:
    """Name in one warning what of the file is not used, none where all is."""
    warnings = []
    if weights.aside:
        warnings.append(f"{checkpoint.path.name}: left out what is no weight: {some(weights.aside)}")
    if weights.beside:
        place = f"took {weights.name}, left out what stands beside it"
        warnings.append(f"{checkpoint.path.name}: {place}: {some(weights.beside)}")
    return tuple(warnings)
