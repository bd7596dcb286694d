"""What all tests share: hypothesis without deadlines (machines differ), and one thread for each parallel worker."""

import os

import torch
from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)  # the same examples each time
settings.load_profile("ci" if os.environ.get("CI") else "local")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
