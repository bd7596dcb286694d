import torch
from torch import nn

from plainconv.exporter.parity import values_of_module
from plainconv.exporter.parity.watch import run_watched


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(self.act(self.conv(x))))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Twice(), nn.Flatten()).eval()


def test_values_are_named_by_the_modules_and_their_calls_and_kept_from_writes_in_place() -> None:
    """Given modules called twice, one of which writes in place → every call, as it returned; no hook is left."""
    module, x = network(), torch.randn(1, 3, 8, 8)
    values = values_of_module(module, (x,), float64=True)
    assert list(values) == ["0.conv", "0.act", "0.conv#2", "0.act#2", "1"]
    assert values["0.conv"].min() < 0 <= values["0.act"].min()
    assert values["0.conv"].dtype == "float64"
    assert not any(part._forward_hooks for part in module.modules())


def test_what_a_watch_returns_takes_the_values_place() -> None:
    for module in (network(), torch.export.export(network(), (torch.zeros(1, 3, 8, 8),)).module(check_guards=False)):
        y = run_watched(module, (torch.randn(1, 3, 8, 8),), lambda name, value: torch.zeros_like(value))
        assert float(y.abs().max()) == 0


def test_tensors_in_a_tuple_have_a_name_each() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x + 1, x - 1

    assert list(values_of_module(nn.Sequential(Two()), (torch.zeros(1, 3),))) == ["0[0]", "0[1]"]
