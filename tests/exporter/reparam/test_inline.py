"""Regions of forward under a mode of their own."""

import warnings

import pytest
import torch
from collapse import check_collapse
from torch import Tensor, nn

from plainconv.exporter.errors import PlainconvWarning
from plainconv.exporter.reparam import reparameterize
from plainconv.exporter.source.randomize import randomized


class Regions(nn.Module):
    """conv, norm, ReLU, conv, norm, each in a region; one within another."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b, self.m, self.dtype = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), dtype

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=self.dtype is not None, dtype=self.dtype or torch.bfloat16):
            y = self.a(x)
            with torch.set_grad_enabled(True), torch.autocast("cuda", enabled=False):
                y = self.n(y)
            y = self.b(torch.relu(y.to(self.dtype) if self.dtype else y))
        with torch.enable_grad():
            y = self.m(y.to(x.dtype))
        with torch.inference_mode():
            return torch.relu(y)


def test_regions_are_merged_as_if_they_were_not_there() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlainconvWarning)
        check_collapse(Regions(), (8, 8), (5, 7), convs=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_autocast_would_narrow_is_computed_in_the_dtype_of_the_weights(dtype: torch.dtype) -> None:
    net, x = randomized(Regions(dtype), 0).eval(), torch.randn(2, 4, 9, 8)
    with pytest.warns(PlainconvWarning, match=f"autocast on .{str(dtype)[6:]}.*dtype of its weights"):
        plain, report = reparameterize(net, x)
    assert report.counts_after["norm"] == 0 and {p.dtype for p in plain.parameters()} == {torch.float32}
    net.dtype = None  # the same network without it
    assert torch.allclose(plain(x), net(x), atol=1e-5)
