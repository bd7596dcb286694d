"""Networks that keep what they compute for the next call."""

import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.count import count_module
from plainconv.exporter.kept import as_it_was
from plainconv.exporter.parity import reference_from_module
from plainconv.exporter.reparam import reparameterize


class Keeping(nn.Module):
    """Adds a grid of its map's size, kept for the next call of that size; in a field, or in a dict by size."""

    def __init__(self, in_dict: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.grid, self.grids, self.sizes = None, {}, []
        self.in_dict = in_dict

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if not self.in_dict:
            if self.grid is None or self.grid.shape != y.shape[2:]:
                self.grid = y.new_zeros(y.shape[2:]) + torch.linspace(0, 1, y.shape[-1])
            return y + self.grid
        key = tuple(map(int, y.shape[2:]))
        if key not in self.grids:
            self.grids[key] = y.new_zeros(key) + torch.linspace(0, 1, y.shape[-1])
            self.sizes.append(key)
        return y + self.grids[key]


@pytest.mark.parametrize("in_dict", [False, True])
def test_what_a_network_keeps_is_its_own(in_dict) -> None:
    """Given what counts, evaluates in float64 and traces -> the network keeps nothing of theirs, and is float32."""
    module, x = Keeping(in_dict).eval(), torch.randn(1, 3, 8, 8)
    count_module(module, x)
    assert module.grid is None and not module.grids and not module.sizes
    reference = reference_from_module(module, x)
    plain, _ = reparameterize(module, x)
    assert all(reference.judge("plain network", lambda a: [plain(torch.from_numpy(a)).numpy()]))
    y = module(x)
    assert type(y) is Tensor and y.dtype == torch.float32
    assert all(type(grid) is Tensor for grid in [module.grid, *module.grids.values()] if grid is not None)


def test_attributes_come_back_whatever_was_done_to_them() -> None:
    module = nn.Sequential(Keeping(True))
    inner, grids = module[0], module[0].grids
    with pytest.raises(KeyError), as_it_was(module):
        inner.grid, inner.new, inner.grids = 1, 2, {3: 4}
        grids[5] = 6
        inner.sizes.extend([7, 8])
        del inner.in_dict
        raise KeyError
    assert inner.grid is None and not hasattr(inner, "new") and inner.in_dict
    assert inner.grids is grids and not grids and not inner.sizes
