"""From a training-time network to a bundle: reparameterize, export, simplify, verify.

`reparameterize` is loaded on first use, so that importing `exporter.bundle` or `exporter.errors` does not import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reparam import reparameterize

__all__ = ["reparameterize"]


def __getattr__(name: str) -> Any:
    if name == "reparameterize":
        from .reparam import reparameterize

        return reparameterize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
