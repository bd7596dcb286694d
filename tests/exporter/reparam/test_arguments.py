"""What `reparameterize` is given: one clear line for what it cannot take, and no silent pass."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.errors import CheckFailedError, PlainconvError, ReparamError
from plainconv.exporter.reparam import reparameterize

X = torch.randn(1, 4, 8, 8)


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()


@pytest.mark.parametrize(
    ("module", "example", "words"),
    [
        (chain(), torch.randn(1, 3, 8, 8), r"does not run on the example, 1×3×8×8 float32 \(.*; give one it takes"),
        (chain(), X.double(), "does not run on the example, 1×4×8×8 float64"),
        (chain(), X.numpy(), "the example is ndarray; wanted a tensor"),
        (chain(), X[:0], "a tensor without elements"),
        (chain().forward, X, "is no torch.nn.Module"),
    ],
)
def test_what_does_not_fit_is_one_line(module: Any, example: Any, words: str) -> None:
    with pytest.raises(ReparamError, match=words) as caught:
        reparameterize(module, example)
    assert "\n" not in str(caught.value)


def test_an_unknown_tracer() -> None:
    with pytest.raises(ReparamError, match="no tracer 'jit'; wanted one of auto, export, fx"):
        reparameterize(chain(), X, tracer="jit")  # type: ignore[arg-type]


@pytest.mark.parametrize("spoil", ["weight", "variance"])
def test_nan_never_passes(spoil: str) -> None:
    net = chain()
    if spoil == "weight":
        net[0].weight.data[0, 0] = float("nan")
    else:
        net[1].running_var.fill_(-1.0)
    for check in (True, False):
        with pytest.raises(CheckFailedError, match="NaN or infinity"):
            reparameterize(net, X, check=check)


def test_nan_outside_of_any_region() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sqrt(x)

    with pytest.raises(CheckFailedError, match="the network gives NaN or infinity for 3×4"):
        reparameterize(Root().eval(), X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own imports
def test_wrapped_networks_are_unwrapped() -> None:
    for wrapped in (nn.DataParallel(chain()), torch.compile(chain())):
        plain, report = reparameterize(wrapped.eval(), X)
        assert report.counts_after["norm"] == 0 and plain(X).shape == X.shape


def test_several_inputs_and_a_tree_of_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = chain(), chain()

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
            return {"sum": self.a(x) + self.b(y), "rest": (x.argmax(1), 3)}

    plain, report = reparameterize(Two().eval(), [X, X])
    out = plain(X, X)
    assert set(out) == {"sum", "rest"} and out["rest"][1] == 3 and report.counts_after["norm"] == 0


def test_errors_are_the_project_s_own() -> None:
    assert issubclass(ReparamError, PlainconvError) and issubclass(CheckFailedError, PlainconvError)
