import pytest
import torch
from torch import nn

from plainconv.exporter.count import count_module

LAYERS = {
    "conv": (lambda: nn.Conv2d(4, 6, 3, 2, 1), (1, 4, 9, 9), 5 * 5 * 6 * 4 * 9),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (1, 4, 9, 9), 7 * 7 * 6 * 2 * 9),
    "depthwise": (lambda: nn.Conv2d(4, 4, 5, groups=4), (1, 4, 9, 9), 5 * 5 * 4 * 25),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2), (1, 4, 5, 5), 5 * 5 * 4 * 6 * 9),
    "linear": (lambda: nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
    "batch": (lambda: nn.Conv2d(4, 6, 1), (3, 4, 2, 2), 3 * 2 * 2 * 6 * 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_macs_of_a_layer_are_those_of_its_definition(name: str) -> None:
    make, shape, macs = LAYERS[name]
    layer = make()
    cost = count_module(layer, torch.zeros(shape))
    assert cost.macs == macs
    assert cost.parameters == sum(p.numel() for p in layer.parameters())


def test_a_product_of_values_counts_and_nothing_is_computed_or_changed() -> None:
    class Product(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            assert isinstance(x, torch._subclasses.FakeTensor)
            return x @ y

    assert count_module(Product(), (torch.zeros(2, 3, 4), torch.zeros(2, 4, 5))).macs == 2 * 3 * 4 * 5
    norm = nn.BatchNorm2d(3).eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    count_module(norm, torch.randn(1, 3, 4, 4))
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_the_longest_sum_is_that_of_the_largest_window() -> None:
    conv = nn.Conv2d(4, 8, 3, padding=1)  # 4·3·3 terms
    image = torch.randn(1, 4, 16, 16)
    assert count_module(conv, image).longest_sum == 36
    pooled = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert count_module(pooled, image).longest_sum == 16 * 16
    assert count_module(nn.Linear(100, 3), torch.randn(1, 100)).longest_sum == 100
