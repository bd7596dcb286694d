"""JSON as a manifest may have it: what every reader takes for the same, in any language. See exporter/BUNDLE.md."""

import json
import math
from typing import Any, NoReturn

_MOST_DIGITS = 400
MOST_LEVELS = 500
"""Deeper than any manifest is nested, and far from where recursion hurts."""


def parse(raw: bytes) -> Any:
    """The value that `raw` is the text of.

    Raises ValueError for what is not JSON (RFC 8259) in UTF-8 without a byte order mark, a key twice in one object,
    numbers that no float64 holds, half a surrogate pair, and nesting beyond MOST_LEVELS. `json.loads` takes them all.
    """
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ValueError("it begins with a byte order mark")
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_object_of_pairs, parse_constant=_refuse_constant, parse_int=_int_of_text
        )
    except RecursionError:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep") from None
    _check(value)
    return value


def _object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return dict(pairs)


def _int_of_text(text: str) -> int:
    if len(text) > _MOST_DIGITS:  # far beyond float64, and Python converts no more than 4300
        raise ValueError("a number beyond float64")
    return int(text)


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _check(value: Any) -> None:
    """Raise ValueError where `value` is nested too deep, or one of its numbers or texts cannot be written again."""
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        for each in level:
            if isinstance(each, str):
                each.encode()
            elif isinstance(each, int | float) and not _is_float64(each):
                raise ValueError("a number beyond float64")
        containers = [each for each in level if isinstance(each, dict | list)]
        level = [item for each in containers for item in (each.values() if isinstance(each, dict) else each)]
        for each in containers:
            if isinstance(each, dict):
                "".join(each).encode()
        if not containers:
            return
    raise ValueError(f"nested more than {MOST_LEVELS} levels deep")


def _is_float64(number: float) -> bool:
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False
