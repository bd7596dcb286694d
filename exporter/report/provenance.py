"""What the bundle was made of, by what, and the hash of everything in it."""

from collections.abc import Mapping
from typing import Any

from ..bundle import Bundle, plain_json

TITLE = "Provenance"


def section(bundle: Bundle, extras: Any) -> dict[str, Any]:
    """Source, chain, engines, files, tools and the seconds that each step took."""
    manifest = bundle.manifest
    seconds = manifest.extra.get("seconds")
    return {
        "source": _flat(manifest.source),
        "preprocessing": _flat(plain_json(manifest.preprocessing) or {}),
        "sha256": bundle.sha256,
        "chain": manifest.chain,
        "engines": bundle.engines,
        "files": [{"name": name, "size": file.size, "sha256": file.sha256} for name, file in manifest.files.items()],
        "tools": dict(manifest.tools),
        "written": manifest.written,
        "seconds": {name: float(s) for name, s in seconds.items()} if isinstance(seconds, Mapping) else {},
    }


def _flat(section: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested sections as lines of text."""
    found: dict[str, str] = {}
    for key, value in section.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name} ")
        elif value is not None:
            found[name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return found
