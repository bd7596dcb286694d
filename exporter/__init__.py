"""From a training-time network to a bundle: reparameterize, export, simplify, verify.

What needs torch is loaded on first use, so that importing `plainconv.exporter.bundle` does not import it.
"""

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .pipeline.live import export
    from .reparam import affine_leaf, reparameterize

__all__ = ["__version__", "affine_leaf", "export", "reparameterize"]


def __getattr__(name: str) -> Any:
    if name == "export":
        from .pipeline.live import export

        return export
    if name in __all__:
        from . import reparam

        return getattr(reparam, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
