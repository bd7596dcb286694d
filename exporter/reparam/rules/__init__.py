"""The affine ATen ops: what each is as a `Linear`, a `Sum` or a `Concat`, or why it is refused.

Importing this registers them.
"""

from . import channels, layout, windows

__all__ = ["channels", "layout", "windows"]
