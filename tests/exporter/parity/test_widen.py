import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainconv.exporter.parity.widen import float64_outputs


class Functional(nn.Module):
    """Casts, factories, functional calls and in-place writes in a forward."""

    def __init__(self, cast: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.cast = cast
        self.weight = nn.Parameter(torch.randn(8, 1, 3, 3))
        self.shift = nn.Parameter(torch.randn(8))
        self.register_buffer("window", torch.hann_window(5))

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.zeros(1, dtype=self.cast) + torch.full((1,), 0.1)
        x = F.conv2d(F.relu(x), self.weight, padding=1, groups=8).to(self.cast)
        x = (x.float() if self.cast == torch.float32 else x) * self.window[2] + self.shift.view(1, -1, 1, 1)
        x[:, 0] *= self.shift[0]
        y = torch.empty_like(x).copy_(x)
        y += torch.tensor([1e-3]).to(self.cast)
        return F.silu(y, inplace=True)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.encode = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(self.norm(x + self.attend(x, x, x, need_weights=False)[0]))


class Counts(nn.Module):
    """Writes into a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.scale = nn.Parameter(torch.tensor([0.3]))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1.0)
        return x * self.scale + self.seen


@torch.no_grad()
def in_float64(module: nn.Module, x: Tensor) -> Tensor:
    """By a float64 copy that casts nothing down."""
    module = copy.deepcopy(module).double()
    if isinstance(module, Functional):
        module.cast = torch.float64
    torch.set_default_dtype(torch.float64)
    try:
        return module(x.double())
    finally:
        torch.set_default_dtype(torch.float32)


IMAGE = (2, 8, 9, 9)
MODULES = {
    "conv": (lambda: nn.Conv2d(8, 6, 3, 2, 1), IMAGE),
    "grouped": (lambda: nn.Conv2d(8, 8, 3, groups=4, bias=False), IMAGE),
    "depthwise": (lambda: nn.Conv2d(8, 8, (3, 5), (2, 1), (1, 2), groups=8), IMAGE),
    "transposed": (lambda: nn.ConvTranspose2d(8, 4, 3, 2, 1), IMAGE),
    "norm": (lambda: nn.BatchNorm2d(8), IMAGE),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(648, 5)), IMAGE),
    "pools": (lambda: nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1)), IMAGE),
    "adaptive": (lambda: nn.Sequential(nn.AdaptiveMaxPool2d(7), nn.AdaptiveAvgPool2d(3)), IMAGE),
    "slopes": (lambda: nn.Sequential(nn.LeakyReLU(0.1), nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Sigmoid()), IMAGE),
    "in place": (lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(8)), IMAGE),
    "functional": (Functional, IMAGE),
    "attention": (Attention, (2, 7, 16)),
    "counts": (Counts, IMAGE),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_float32_module_gives_what_its_float64_copy_gives_and_is_left_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    make, shape = MODULES[name]
    module, x = make().eval(), torch.randn(shape)
    wanted = in_float64(module, x)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    default = torch.get_default_dtype()

    found = float64_outputs(module, (x,))

    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    if name != "counts":  # that one's forward is what changes it
        assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert torch.get_default_dtype() == default


@pytest.mark.parametrize("name", [name for name in MODULES if name != "counts"])
def test_no_float64_copy_of_the_weights_is_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = MODULES[name]
    module = make().eval()

    def refuse(_: object) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr("plainconv.exporter.parity.widen.copy.deepcopy", refuse)
    float64_outputs(module, (torch.randn(shape),))


def test_a_module_in_inference_mode_gives_the_same() -> None:
    module, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)).eval(), torch.randn(1, 3, 5, 5)
    wanted = float64_outputs(module, (x,))
    with torch.inference_mode():
        found = float64_outputs(module, (x,))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("cast", [Tensor.float, Tensor.half, Tensor.bfloat16])
def test_bools_and_integers_that_are_cast_are_floats(cast: Callable[[Tensor], Tensor]) -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return cast(x > 0), cast(x.argmax(1))

    for y in float64_outputs(Cast(), (torch.randn(2, 3),)):
        assert y.dtype == torch.float64


def test_a_module_that_fails_says_so_and_leaves_no_mode_behind() -> None:
    with pytest.raises(RuntimeError):
        float64_outputs(nn.Conv2d(3, 4, 3).eval(), (torch.randn(1, 5, 5, 5),))
    assert (torch.ones(1) + torch.ones(1)).dtype == torch.float32


def test_infinity_stays_where_a_depthwise_kernel_reaches() -> None:
    conv, x = nn.Conv2d(4, 4, 3, padding=1, groups=4).eval(), torch.randn(1, 4, 9, 9)
    x[0, 1, 4, 0] = float("inf")
    found = float64_outputs(conv, (x,))
    assert torch.equal(found.isfinite(), conv(x).isfinite())
    assert found[0, 1, 4, 2:].isfinite().all()
