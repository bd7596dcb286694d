"""Shared by the tests of models/: conformance vectors, and networks whose statistics hide nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import conformance as conformance_helper
import pytest
import torch
from places import ASSETS
from torch import Tensor, nn


@pytest.fixture(scope="session")
def conformance() -> ModuleType:
    """The helper of that name."""
    return conformance_helper


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of trained checkpoints and vectors."""
    return ASSETS


@pytest.fixture(scope="session")
def drawn_state() -> Callable[[nn.Module], dict[str, Tensor]]:
    """Given a network → a state dict of the conformance vectors' weights for its keys, norms far from the identity."""

    def draw(network: nn.Module) -> dict[str, Tensor]:
        shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        return {key: torch.from_numpy(conformance_helper.weight(key, shape)) for key, shape in shapes.items()}

    return draw


@pytest.fixture
def run64() -> Callable[[nn.Module, Mapping[str, Tensor], Tensor], Tensor]:
    """Given a network, a state dict and an input → its output in eval mode, all in float64."""

    def run(network: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
        network.double().eval().load_state_dict(state)
        with torch.inference_mode():
            return network(x.double())

    return run


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`vector_name` runs over every conformance vector, the large ones marked slow; `any_vector_name` marks none."""
    if "any_vector_name" in metafunc.fixturenames:
        metafunc.parametrize("any_vector_name", conformance_helper.NAMES)
    if "vector_name" in metafunc.fixturenames:
        quick = {name for name in conformance_helper.NAMES if conformance_helper.load(name).quick}
        marked = [
            name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in conformance_helper.NAMES
        ]
        metafunc.parametrize("vector_name", marked)
