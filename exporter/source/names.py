"""Names of inputs and outputs, out of the keys that lead to them, and of networks."""

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a network may be called: as a file, a URL and a model repository take it."""


def joined(path: str, name: str) -> str:
    """The name of what lies under `name` in what is called `path`."""
    plain = re.sub(r"\W+", "_", name).strip("_") or "output"
    return f"{path}_{plain}" if path else plain


def file_safe(name: str) -> str:
    """`name` as `NAME` has it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:64] or "network"


def snake_case(name: str) -> str:
    """RGBDNet -> rgbd_net."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
