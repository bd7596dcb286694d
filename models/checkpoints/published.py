"""Published checkpoints, into the networks of the catalogue or into a user's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from plainconv.exporter.errors import CheckpointError

from .. import Entry, entries, find
from ..deep_training import Fading, SavedFadingActivation, Schedule, set_slope, slope_at
from .content import Checkpoint, read_checkpoint
from .layouts import Weights, left_out, nearest, readings, settle
from .loading import CheckpointInfo, check_values, fill, info_of, load_into
from .match import (
    FORMS,
    OPTIONAL,
    Form,
    Mismatch,
    closest_network,
    empty_network,
    mismatch,
    shapes_of,
)

__all__ = ["Checkpoint", "CheckpointInfo", "Loaded", "load_checkpoint", "load_into", "read_checkpoint"]


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode with a checkpoint's weights, and what is known of them."""

    module: nn.Module
    info: CheckpointInfo


def load_checkpoint(
    name: str,
    path: Path | str,
    *,
    ema: bool | None = None,
    layout: Literal["auto", "training", "deploy"] = "auto",
    slope: float | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    key: str | None = None,
    drop: Sequence[str] = (),
) -> Loaded:
    """Load a published checkpoint into the network it belongs to.

    The network is built as its file needs it: training or deploy form after the keys, a series activation of the order
    that its kernels tell. The weights stay mapped from the file; they are copied only where their type is not float32.

    The slope of VanillaNet's deep-training activation (eq. 1) is in no state dict: it is computed from the `epoch` and
    `args` that the training script keeps beside the weights. Where the file has neither, slope 1 is taken, and a
    warning says so.

    Args:
        name: of the network, one of `entries()`.
        path: of the file, see `read_checkpoint`.
        ema: True for the averaged weights, False for the plain ones; None for the plain ones unless there are none.
        layout: the form that the file must have; "auto" takes what its keys say.
        slope: overrides the slope, from 0 to 1.
        options: of the network, see `create`.
        key: the entry that holds the weights, see `read_checkpoint`.
        drop: patterns of keys to leave out, see `read_checkpoint`.

    Raises:
        SourceError: the name or an option is wrong, see `create`.
        CheckpointError: as `read_checkpoint` does; or keys or shapes do not fit the network; or a slope is given where
            there is nothing to set it on.
    """
    entry = find(name)
    empty_network(name, "training", options)  # a wrong option is told before a large file is read
    checkpoint = read_checkpoint(path, key=key, drop=drop)
    reading, form, network = _reading_of(entry, checkpoint, ema, layout, options)
    check_values(checkpoint, reading, network.state_dict(keep_vars=True))
    fill(network, reading.state)
    asked = options.get("slope") if slope is None else slope
    slope, warnings = _settle_slope(network, checkpoint, asked)
    warnings = (*_name_warnings(entry, checkpoint), *left_out(checkpoint, reading), *warnings)
    return Loaded(network.eval(), info_of(checkpoint, reading, warnings, layout=form, slope=slope))


def _reading_of(
    entry: Entry,
    checkpoint: Checkpoint,
    ema: bool | None,
    layout: Literal["auto", "training", "deploy"],
    options: Mapping[str, Any],
) -> tuple[Weights, Form, nn.Module]:
    """Find the weights, the form that they are of, and the network of the options that they tell beside those given.

    Raises:
        CheckpointError: nothing in the file fits, or several things do and differ.
    """
    as_given = {form: empty_network(entry.name, form, options) for form in FORMS}
    names = [
        {name: name for name in network.state_dict() if not name.endswith(OPTIONAL)} for network in as_given.values()
    ]
    found = {weights.name: weights for needed in names for weights in readings(checkpoint, needed)}
    fitting = []
    tried = {}
    explained = ""
    near = [] if found else [nearest(checkpoint, needed) for needed in names]
    for weights in found.values() or [max(near, key=lambda weights: len(weights.state))]:
        told = {**entry.options_from_state(weights.state), **options}
        known = told == dict(options)
        networks = as_given if known else {form: empty_network(entry.name, form, told) for form in FORMS}
        form = _form_of(weights.state, networks) if layout == "auto" else layout
        tried[weights.name] = form, networks[form]
        if not (problem := _mismatch(networks[form], weights.state)):
            fitting.append(weights)
        elif not explained:
            explained = _explain(problem, entry, form, networks, weights.state, told)
    if not fitting:
        raise CheckpointError(f"{checkpoint.path.name}: {explained}")
    chosen = settle(checkpoint, fitting, ema)
    return chosen, *tried[chosen.name]


def _mismatch(network: nn.Module, state: Mapping[str, Tensor]) -> Mismatch:
    return mismatch(shapes_of(state), shapes_of(network.state_dict()))


def _form_of(state: Mapping[str, Tensor], networks: Mapping[Form, nn.Module]) -> Form:
    """Tell the form from the keys alone: the one that shares more of them."""

    def shared(form: Form) -> float:
        keys = networks[form].state_dict().keys()
        return len(keys & state.keys()) / len(keys | state.keys())

    return max(FORMS, key=shared)


def _explain(
    problem: Mismatch,
    entry: Entry,
    form: Form,
    networks: Mapping[Form, nn.Module],
    state: Mapping[str, Tensor],
    options: Mapping[str, Any],
) -> str:
    """Say in one line what does not fit, and what would."""
    other = FORMS[1 - FORMS.index(form)]
    if not _mismatch(networks[other], state):
        return f"has the {other} layout of {entry.name}, wanted the {form} layout; leave --layout out, or give {other}"
    head = entry.heads[FORMS.index(form)]
    found, wanted = (weights.get(head) for weights in (state, networks[form].state_dict()))
    if found is not None and wanted is not None and found.ndim > 0 and found.numel() > 0:
        n, n_wanted = found.shape[0], wanted.shape[0]
        if not _mismatch(empty_network(entry.name, form, {**options, "num_classes": n}), state):
            return f"its classifier has {n} classes, wanted {n_wanted}; give --set num_classes={n}"
    return f"is no {form} checkpoint of {entry.name}: {problem}; {_remedy(entry, form, state)}"


def _remedy(entry: Entry, form: Form, state: Mapping[str, Tensor]) -> str:
    closest = closest_network(state)
    if closest is None:
        return "no network of the catalogue is near it; give the one it was trained as, FILE.py:CALLABLE for your own"
    name, layout, share = closest
    if (name, layout) == (entry.name, form):
        return f"{share:.0%} of it fits; give a whole checkpoint and the options it was trained with"
    fit = "it fits" if share == 1.0 else f"{share:.0%} of it fits"
    return f"{fit} {name}, {layout} layout; give that name, or the checkpoint of {entry.name}"


def _name_warnings(entry: Entry, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Warn where the file says it is another network, one that has the same keys and shapes."""
    trained = checkpoint.args.get("model")
    if trained == entry.name or not isinstance(trained, str) or trained not in entries():
        return ()
    return (
        f"{checkpoint.path.name}: says it was trained as {trained}, loaded as {entry.name}; give the name {trained}",
    )


def _settle_slope(
    network: nn.Module, checkpoint: Checkpoint, asked: float | None
) -> tuple[float | None, tuple[str, ...]]:
    """Set the slope of the network's fading activations: the one asked for, or the file's, or 1.

    A slope that is in the state dict has been loaded with it; several differ where its owner changed them one by one.

    Returns the slope, None where the network has no such activation, and the warnings that it calls for.
    """
    file = checkpoint.path.name
    fades = [module for module in network.modules() if isinstance(module, Fading)]
    if not fades and asked is not None:
        raise CheckpointError(f"{file}: slope {asked:g} given, but this network has no fading activation; leave it out")
    if not fades:
        return None, ()
    saved = [module.slope for module in fades if isinstance(module, SavedFadingActivation)]
    told = _Told(min(saved), "its state dict") if saved else _slope_in(checkpoint)
    slope = asked if asked is not None else told.slope if told else 1.0
    try:
        if asked is not None or not saved:
            set_slope(network, slope)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    warnings = []
    if asked is None and told is None:
        warnings.append(
            f"{file}: does not tell how far its deep training had come (no epoch and decay_epochs beside the weights); "
            "slope 1 is taken, which is wrong if it stopped before decay_epochs; --slope says what it was"
        )
    if asked is not None and told is not None and asked != told.slope:
        warnings.append(f"{file}: slope {asked:g} overrides {told.slope:g}, which {told.when} gives; leave --slope out")
    if slope != 1.0:
        when = f" (saved {'in' if saved else 'at'} {told.when})" if told and asked is None else ""
        warnings.append(
            f"{file}: its deep-training activation has slope {slope:g}{when}, not 1, so the convs around it cannot "
            "merge and the network is exported as it is; finish the deep training, or give --slope if this one is wrong"
        )
    return slope, tuple(warnings)


@dataclass(frozen=True)
class _Told:
    slope: float
    when: str


def _slope_in(checkpoint: Checkpoint) -> _Told | None:
    """Compute the slope from `epoch`, `args.decay_epochs` and `args.decay_linear`, which VanillaNet's script writes."""
    epoch, decay_epochs = checkpoint.epoch, checkpoint.args.get("decay_epochs")
    if epoch is None or not isinstance(decay_epochs, int | float):
        return None
    schedule: Schedule = "linear" if checkpoint.args.get("decay_linear", True) else "cosine"
    slope = slope_at(epoch, decay_epochs, schedule)
    return _Told(slope, f"epoch {epoch} of {decay_epochs:g}, {schedule} schedule")
