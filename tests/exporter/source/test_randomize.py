"""Random weights under which an output depends on the image, and a wrong fusion shows."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.parity import reference_from_module, run_module
from plainconv.exporter.source.randomize import randomized

IMAGE = torch.zeros(1, 3, 32, 32)


class Gated(nn.Module):
    """Residual blocks with a squeeze-and-excitation gate, ten deep, and a norm behind the global pool."""

    def __init__(self, width: int = 16, depth: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for _ in range(depth)
        )
        self.gates = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, gate in zip(self.convs, self.gates, strict=True):
            y = conv(x)
            x = x + y * gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_deep_gated_network_depends_on_its_input_and_certifies(seed: int) -> None:
    net = randomized(Gated(), seed, IMAGE)
    reference = reference_from_module(net, IMAGE)
    wanted = reference.outputs["logits"]
    random = np.isin(reference.kinds, "normal")
    assert wanted.spread > 0.1 * float(np.sqrt(np.mean(wanted.values[random] ** 2)))
    (parity,) = reference.judge("eager", run_module(net))
    assert parity and parity.tolerance < 1e-3


def test_norms_are_no_identities_and_the_seed_decides() -> None:
    first, again, other = (randomized(Gated(), seed, IMAGE).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.values(), again.values(), strict=True))
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])
    assert all(first[name].std() > 0.1 for name in first if name.endswith((".running_mean", "1.bias")))


class Counted(nn.Module):
    """Keeps how many images it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.images = nn.BatchNorm2d(3), [0]

    def forward(self, x: Tensor) -> Tensor:
        self.images.append(len(x))
        return self.norm(x)


@pytest.mark.parametrize(("size", "images"), [(224, 8), (640, 5), (2048, 2)])
def test_statistics_are_of_as_many_images_as_are_affordable(size: int, images: int) -> None:
    net = Counted()
    randomized(net, 0, torch.zeros(1, 3, size, size))
    assert net.images[-1] == images
