"""A head that answers, raises, or says nothing."""

import threading
import time

import pytest

from plainconv.engines.serving.ray import head


@pytest.mark.parametrize("how", ["answers", "raises", "is silent", "is silent once"])
def test_whether_it_is_lost(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Given what asking it does -> lost in its time where there is no answer, and only there."""
    monkeypatch.setattr(head, "ASK_S", 0.01)
    monkeypatch.setattr(head, "LOST_S", 0.2)
    ended, lost, silent = threading.Event(), threading.Event(), threading.Event()
    asked: list[float] = []

    def ask() -> None:
        asked.append(time.monotonic())
        if how == "raises":
            raise ConnectionError
        if how == "is silent" or (how == "is silent once" and len(asked) == 3):
            silent.wait(0.1 if "once" in how else 60)

    head.watch(ask, lost.set, ended)
    assert lost.wait(0.5 if "answers" in how or "once" in how else 60) == (how in ("raises", "is silent"))
    assert len(asked) > 3 or how == "is silent"
    ended.set()
    silent.set()
