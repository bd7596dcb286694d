"""Deep training (VanillaNet §3.1): two convs with an activation between them that fades away while the network trains.

At slope 1 the activation is the identity and the two convs are one. In VanillaNet the slope is a Python attribute: no
published state dict holds it, so it has to be set again on every network that is loaded. In what `deepen` makes, which
has no published layout to keep, the state dict holds it.
"""

import math
from collections.abc import MutableMapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from plainconv.exporter.errors import CheckpointError

Schedule = Literal["linear", "cosine"]


class Fading(nn.Module):
    """A'(x) = (1 − λ)·max(x, 0) + λ·x, which is a LeakyReLU of slope λ; the identity at λ = 1 (VanillaNet eq. 1).

    Args:
        slope: λ in [0, 1]; may be changed at any time, see `set_slope`.
    """

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same shape out."""
        return functional.leaky_relu(x, self.slope)

    def extra_repr(self) -> str:
        """Show the slope in `print(network)`."""
        return f"slope={self.slope:g}"


class FadingActivation(Fading):
    """VanillaNet's own, whose slope is in no state dict."""


class SavedFadingActivation(Fading):
    """One whose slope is in the state dict, as a scalar beside the weights, and comes back from it."""

    def _save_to_state_dict(self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "slope"] = torch.tensor(self.slope, dtype=torch.float64, device="cpu")

    def _load_from_state_dict(
        self,
        state_dict: MutableMapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "slope"
        if key not in state_dict:
            missing_keys.append(key)
            return
        slope = float(state_dict[key])
        if not 0.0 <= slope <= 1.0:
            raise CheckpointError(f"{key} is {slope:g}; wanted a number from 0 to 1; take a sound checkpoint")
        self.slope = slope


def linear_slope(epoch: float, decay_epochs: float) -> float:
    """λ = e / E, and 1 from epoch E on (VanillaNet §3.1)."""
    return _faded(epoch, decay_epochs)


def cosine_slope(epoch: float, decay_epochs: float) -> float:
    """λ = ½·(1 − cos(π·e / E)), and 1 from epoch E on."""
    return 0.5 * (1.0 - math.cos(math.pi * _faded(epoch, decay_epochs)))


def slope_at(epoch: float, decay_epochs: float, schedule: Schedule = "linear") -> float:
    """Return the slope λ while epoch `epoch` (from 0) is trained, of a schedule that reaches 1 at `decay_epochs`.

    Raises:
        ValueError: `schedule` is neither "linear" nor "cosine".
    """
    if schedule == "linear":
        return linear_slope(epoch, decay_epochs)
    if schedule == "cosine":
        return cosine_slope(epoch, decay_epochs)
    raise ValueError(f"schedule {schedule!r} is unknown; wanted linear or cosine")


def set_slope(network: nn.Module, slope: float) -> int:
    """Set the slope of every fading activation in `network` and return how many there are.

    Raises:
        ValueError: `slope` is not in [0, 1].
    """
    if not 0.0 <= slope <= 1.0:
        raise ValueError(f"slope is {slope:g}; wanted a number from 0 (a plain ReLU) to 1 (the identity)")
    activations = [module for module in network.modules() if isinstance(module, Fading)]
    for activation in activations:
        activation.slope = float(slope)
    return len(activations)


def _faded(epoch: float, decay_epochs: float) -> float:
    return 1.0 if epoch >= decay_epochs else epoch / decay_epochs
