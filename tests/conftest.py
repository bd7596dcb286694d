"""What all tests share: the same examples each time, one thread for each parallel worker, and signals that arrive."""

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=1000)  # drawn anew, by the seed that pytest prints
settings.load_profile("same")

signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a job in the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and this one under nohup, by what the tests start, too

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

_AT_FIRST = dict[int, Any]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test, and what is made for it, draws what it draws alone, whatever ran before it in its process."""
    torch.manual_seed(0)
    for rng in vars(getattr(item, "module", object)).values():
        if isinstance(rng, np.random.Generator):
            rng.bit_generator.state = _AT_FIRST.setdefault(id(rng), rng.bit_generator.state)
