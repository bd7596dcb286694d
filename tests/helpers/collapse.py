"""What must hold of every network that is reparameterized."""

import copy

import torch
from torch import nn

from plainconv.exporter.reparam import Report, reparameterize
from plainconv.exporter.source.randomize import randomized


def check_collapse(module: nn.Module, *sizes: tuple[int, ...], channels: int = 4, convs: int | None = None) -> Report:
    """The plain network equals the module in float64 at every size, shares no state, and stays as it is if repeated."""
    module = randomized(module, 0).double().eval()
    before = copy.deepcopy(module.state_dict())
    example = torch.randn(2, channels, *sizes[0], dtype=torch.float64)
    plain, report = reparameterize(module, example)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for size in sizes:
            for batch in (1, 3):
                x = torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator)
                want, got = module(x), plain(x)
                assert got.shape == want.shape
                assert (got - want).abs().max() <= 1e-10 * (1 + want.abs().max())
    assert report.macs_after <= report.macs_before
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    shared = {t.data_ptr() for t in module.state_dict().values() if t.numel()}
    assert not shared & {t.data_ptr() for t in plain.state_dict().values() if t.numel()}
    _, second = reparameterize(plain, example)
    assert second.counts_after == report.counts_after and second.macs_after == report.macs_after
    if convs is not None:
        assert report.counts_after["conv"] == convs and report.counts_after["norm"] == 0
    return report
