"""How a model is spread over a Ray cluster. Imports no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field

RUNS_AHEAD = 1  # batches that a replica holds beside those that it runs, so that it never waits for the next


@dataclass(frozen=True)
class RayOptions:
    """Where the cluster is, how many replicas there are and what each of them gets.

    `address` is HOST:PORT, "auto" for a cluster that this machine belongs to, "local" for one that is begun here, or
    "" for the first of these that there is. `cpus` and `gpus` are a replica's; a part of a GPU shares it. With
    `autoscale`, (least, most), Ray chooses how many replicas there are, so that each has `target_ongoing` batches
    (None: as many as it runs at a time); `autoscaling` are further fields of Ray Serve's own `AutoscalingConfig`.
    `start_s` is how long the replicas of a model may take to find a place and be ready.
    """

    address: str = ""
    replicas: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    autoscale: tuple[int, int] | None = None
    target_ongoing: float | None = None
    autoscaling: Mapping[str, object] = field(default_factory=dict)
    start_s: float = 600.0

    @property
    def most(self) -> int:
        """How many replicas there may be."""
        return self.autoscale[1] if self.autoscale else self.replicas
