"""The bearer token."""

from pathlib import Path

import pytest

from plainconv.engines.serving.auth import Bearer, token_of_file
from plainconv.engines.serving.refusals import UnauthorizedError
from plainconv.exporter.errors import EngineError

TOKEN = "0123456789abcdef"


def test_the_right_token() -> None:
    """Given it, however its scheme is spelled and in whatever type -> let in; without one wanted, all are."""
    for given in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", f"Bearer {TOKEN}".encode()):
        Bearer(TOKEN).check(given)
    Bearer("").check(None)
    with pytest.raises(UnauthorizedError):  # and it is looked at
        Bearer(TOKEN).check(f"Bearer {TOKEN}0")


@pytest.mark.parametrize(
    "given", [None, "", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", b"\xff", "Bearer é"]
)
def test_a_wrong_token(given: str | bytes | None) -> None:
    with pytest.raises(UnauthorizedError, match="the bearer token is missing or wrong") as caught:
        Bearer(TOKEN).check(given)
    assert TOKEN not in str(caught.value)


def test_a_file_with_a_token(tmp_path: Path) -> None:
    (tmp_path / "t").write_text(f"{TOKEN}\n")
    assert token_of_file(tmp_path / "t") == TOKEN


@pytest.mark.parametrize("text", ["", "s3&cret", "0123456789 abcdef", "0123456789abcdef\n0123456789abcdef", "é" * 20])
def test_a_file_without_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text(text, encoding="utf-8")
    with pytest.raises(EngineError, match="holds no token; wanted 16 to 4096 visible ASCII characters") as caught:
        token_of_file(tmp_path / "t")
    assert not text or text not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the token cannot be read"):
        token_of_file(tmp_path / "none")
