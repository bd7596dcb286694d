"""Statuses, and what a sentence repeats of what was sent."""

from http import HTTPStatus
from typing import Any

import pytest

from plainconv.engines.serving import refusals
from plainconv.engines.serving.refusals import LeftError, RefusedError, shown
from plainconv.exporter.errors import PlainconvError

KINDS = [kind for kind in vars(refusals).values() if isinstance(kind, type) and issubclass(kind, RefusedError)]


@pytest.mark.parametrize("kind", KINDS)
def test_statuses(kind: type[RefusedError]) -> None:
    """Given any refusal -> a status of each protocol, and Triton's word for the reason."""
    codes = "INVALID_ARGUMENT UNAUTHENTICATED PERMISSION_DENIED NOT_FOUND DEADLINE_EXCEEDED RESOURCE_EXHAUSTED "
    assert kind is LeftError or HTTPStatus(kind.http).value >= 400
    assert kind.grpc in (codes + "ALREADY_EXISTS CANCELLED UNAVAILABLE INTERNAL").split()
    assert kind.reason in ("OTHER", "REJECTED", "CANCELED", "BACKEND") and issubclass(kind, PlainconvError)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("a\n\x1b[31m\0", "'a\\n\\x1b[31m\\x00'"),
        (7, "7"),
        (None, "None"),
        ([1, "a"], "[1, 'a']"),
        ("x" * 78, f"'{'x' * 78}'"),
        ("x" * 79, f"'{'x' * 79}…"),
        ("x" * 10**8, f"'{'x' * 79}…"),
    ],
)
def test_shown(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("value", [[0] * 10**6, {str(i): i for i in range(10**5)}, [[[[["a" * 10**6] * 99] * 99]]]])
def test_much_is_not_looked_at(value: Any) -> None:
    """Given something large -> a short text, without writing all of it first."""
    text = shown(value)
    assert len(text) <= 81 and "\n" not in text
