"""The weights of a checkpoint into a network: any network whose names stand somewhere in the file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from plainconv.exporter.errors import CheckpointError

from .content import Checkpoint
from .files import OWN_LOADER
from .keys import canonical, common_prefix
from .layouts import BARE, Weights, left_out, nearest, readings, settle
from .match import OPTIONAL, Form, mismatch, shapes_of
from .values import problem_of


@dataclass(frozen=True)
class CheckpointInfo:
    """What was loaded, for a report and a manifest.

    `weights` names where in the file the weights were, `others` what else --ema, --no-ema or --key could have chosen.
    `layout` is that of a network of the catalogue, `slope` that of its deep-training activation, None without one.
    """

    path: Path
    sha256: str
    layout: Form | None
    ema: bool
    epoch: int | None
    slope: float | None
    warnings: tuple[str, ...]
    weights: str
    others: tuple[str, ...]
    classes: tuple[str, ...] = ()


def load_into(module: nn.Module, checkpoint: Checkpoint, *, ema: bool | None = None) -> CheckpointInfo:
    """Load a checkpoint's weights into any network, wherever in the file all that the network has names for stands.

    `num_batches_tracked` may be missing, and one of two names of the same parameter. A kernel of 1×1 may be a matrix,
    and the other way round. Weights take the network's dtypes. A network built on the meta device takes the
    checkpoint's tensors themselves, with no copy; any other is written to in place.

    Raises:
        CheckpointError: keys are missing or unexpected, or shapes differ; or two places of the file fit and differ; or
            an entry is no dense tensor or holds NaN or inf.
    """
    own = {key: tensor for key, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    spelled = canonical(own)
    shapes = {name: tuple(own[key].shape) for name, key in spelled.items()}
    twins = _twins(module, spelled)
    found = [_with_twins(weights, twins) for weights in readings(checkpoint, _needed(twins))]
    inner = common_prefix(shapes)
    if not found and inner:  # the file was saved from the network inside
        within = {name.removeprefix(inner): twin.removeprefix(inner) for name, twin in twins.items()}
        found = [
            _with_twins(_behind(inner, weights), twins)
            for weights in readings(checkpoint, _needed(within))
            if not weights.beside
        ]
    fitting = [weights for weights in found if not mismatch(shapes_of(weights.state), shapes)]
    if not fitting:
        closest = found[0] if found else nearest(checkpoint, _needed(twins))
        raise CheckpointError(f"{checkpoint.path.name}: {_misfit(closest, shapes, type(module).__name__)}")
    reading = settle(checkpoint, fitting, ema)
    entries = module.state_dict(keep_vars=True)
    check_values(checkpoint, reading, {name: entries[key] for name, key in spelled.items() if key in entries})
    fill(module, {spelled[name]: tensor for name, tensor in reading.state.items() if name in spelled})
    return info_of(checkpoint, reading, left_out(checkpoint, reading))


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put in weights whose keys and numbers fit; steps that the file does not count are zero."""
    wanted = {key: tensor for key, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    fitting = {
        key: state[key].to(tensor.dtype).contiguous().view(tensor.shape)
        for key, tensor in wanted.items()
        if key in state
    }
    absent = {key: torch.zeros_like(wanted[key], device="cpu") for key in wanted if key not in state}
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    module.load_state_dict({**fitting, **absent}, strict=False, assign=on_meta)


def check_values(checkpoint: Checkpoint, reading: Weights, wanted: Mapping[str, Tensor]) -> None:
    """Refuse weights that are no dense, finite numbers, or of a type that those wanted cannot hold.

    Raises:
        CheckpointError: an entry is none.
    """
    if problem := problem_of(reading.state, wanted):
        raise CheckpointError(f"{checkpoint.path.name}: {problem}")


def info_of(
    checkpoint: Checkpoint,
    reading: Weights,
    warnings: tuple[str, ...],
    *,
    layout: Form | None = None,
    slope: float | None = None,
) -> CheckpointInfo:
    """Tell what was loaded."""
    return CheckpointInfo(
        path=checkpoint.path,
        sha256=checkpoint.sha256,
        layout=layout,
        ema=reading.ema,
        epoch=checkpoint.epoch,
        slope=slope,
        warnings=warnings,
        weights=reading.name,
        others=reading.others,
        classes=checkpoint.classes,
    )


def _needed(twins: Mapping[str, str]) -> dict[str, str]:
    """Leave out what old files have not: counters of steps."""
    return {name: twin for name, twin in twins.items() if not name.endswith(OPTIONAL)}


def _twins(module: nn.Module, spelled: Mapping[str, str]) -> dict[str, str]:
    """Map each name to the first name of the same parameter or buffer."""
    owners = {
        **{key: id(parameter) for key, parameter in module.named_parameters(remove_duplicate=False)},
        **{key: id(buffer) for key, buffer in module.named_buffers(remove_duplicate=False)},
    }
    first: dict[int, str] = {}
    return {name: first.setdefault(owners.get(key, id(key)), name) for name, key in spelled.items()}


def _with_twins(weights: Weights, twins: Mapping[str, str]) -> Weights:
    """Give a weight that the file has by one of its names all of them."""
    there = {twins[name]: tensor for name, tensor in weights.state.items() if name in twins}
    return replace(
        weights, state={**{name: there[twin] for name, twin in twins.items() if twin in there}, **weights.state}
    )


def _behind(prefix: str, weights: Weights) -> Weights:
    return replace(weights, state={prefix + name: tensor for name, tensor in weights.state.items()})


def _misfit(found: Weights, wanted: Mapping[str, tuple[int, ...]], network: str) -> str:
    problem = mismatch(shapes_of(found.state), wanted)
    where = "" if found.name == BARE else f"under {found.name}, "
    remedy = "build the network with the options it was trained with, or give its own checkpoint"
    if problem.unexpected and not problem.missing and not problem.reshaped:
        remedy = f"--drop PATTERN leaves out what {network} does not have"
    return f"{where}{problem}, of the {len(wanted)} that {network} takes; {remedy}; {OWN_LOADER}"
