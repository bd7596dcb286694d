"""From a training-time network to a bundle: reparameterize, export, simplify, verify.

What needs torch is loaded on first use, so that importing `plainconv.exporter.bundle` does not import it.
"""

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .reparam import affine_leaf, reparameterize

__all__ = ["__version__", "affine_leaf", "reparameterize"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import reparam

        return getattr(reparam, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
