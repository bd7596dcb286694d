"""How a network is trained, in the words of the published training scripts."""

from dataclasses import dataclass
from typing import Any

from ..deep_training import Schedule


@dataclass(frozen=True)
class Recipe:
    """How to train; deep training's slope reaches 1 at `decay_epochs`, and `ema` is the averages' decay, 0 for none."""

    epochs: int = 40
    decay_epochs: int = 20
    schedule: Schedule = "linear"
    batch_size: int = 50
    lr: float = 3e-3
    weight_decay: float = 0.05
    smoothing: float = 0.1
    shift: int = 2
    ema: float = 0.0
    seed: int = 0

    def args(self, name: str) -> dict[str, Any]:
        """Name it all as the published training scripts do in the `args` of their checkpoints."""
        return {
            "model": name,
            "epochs": self.epochs,
            "decay_epochs": self.decay_epochs,
            "decay_linear": self.schedule == "linear",
            "batch_size": self.batch_size,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "smoothing": self.smoothing,
            "shift": self.shift,
            "model_ema": self.ema > 0,
            "model_ema_decay": self.ema,
            "seed": self.seed,
        }
