"""Parts by the names that tests read: without the hash of their bundle."""

from collections.abc import Iterator

import pytest

from plainconv.engines.triton import models

REAL = models.version_mark


@pytest.fixture(scope="session", autouse=True)
def plain_names() -> Iterator[None]:
    """Without the hash, but in tests that take `version_mark`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "version_mark", lambda sha256: "")
        yield


@pytest.fixture
def version_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hash."""
    monkeypatch.setattr(models, "version_mark", REAL)
