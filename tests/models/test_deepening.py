"""Deep training and series activations for any network: what is added, what stays, and when it merges."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plainconv.exporter.errors import CheckpointError, SourceError
from plainconv.exporter.reparam import reparameterize
from plainconv.models import create, deepen
from plainconv.models.checkpoints.published import load_checkpoint
from plainconv.models.deep_training import set_slope
from plainconv.models.series_activation import SeriesActivation

Draw = Callable[[nn.Module], dict[str, Tensor]]
Run = Callable[[nn.Module, Mapping[str, Tensor], Tensor], Tensor]


class Small(nn.Module):
    """Convs with a norm, without one, strided and grouped; an activation that is a module, a function, a method."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 5, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.conv3 = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 6, 3)
        self.act, self.drop = nn.ReLU(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = x + functional.relu(self.conv2(x))
        return self.drop(self.conv3(x).relu()).mean((2, 3))


def test_every_conv_with_an_activation_is_deepened_and_every_key_stays() -> None:
    network = Small()
    before = network.state_dict()
    deep = deepen(network)
    added = {key: tensor for key, tensor in deep.state_dict().items() if key.startswith("deepened.")}
    kept = {key: tensor for key, tensor in deep.state_dict().items() if key not in added}
    assert kept.keys() == before.keys() and all(torch.equal(kept[key], before[key]) for key in kept)
    slopes = [key for key in added if key.endswith("fade.slope")]
    assert len(slopes) == 3 and all(float(added[key]) == 0.0 for key in slopes)
    assert sum(key.endswith("norm1.running_var") for key in added) == 2  # the first conv has a norm of its own


def test_slope_1_merges_to_the_depth_it_had(drawn_state: Draw) -> None:
    network = Small().eval()
    deep = deepen(network, slope=1.0).double().eval()
    deep.load_state_dict({**drawn_state(deep), **{k: v for k, v in deep.state_dict().items() if "slope" in k}})
    x = torch.randn(2, 3, 33, 30, generator=torch.Generator().manual_seed(0)).double()
    _, report = reparameterize(deep, x)  # raises where it is not the same function
    assert report.counts_before["conv"] == 6
    assert (report.counts_after["conv"], report.counts_after["norm"]) == (3, 0)
    set_slope(deep, 0.5)
    _, report = reparameterize(deep, x)
    assert (report.counts_after["conv"], report.counts_after["norm"]) == (6, 0)


def test_deepened_block_computes_equation_1(drawn_state: Draw, run64: Run) -> None:
    """1×1(A'(BN(conv))) with A'(x) = (1 − λ)·max(x, 0) + λ·x, a norm behind it, then the activation it had."""
    deep = deepen(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), slope=0.25)
    (slope_key,) = (key for key in deep.state_dict() if key.endswith("slope"))
    state = {**drawn_state(deep), slope_key: torch.tensor(0.25)}
    at = slope_key.removesuffix("fade.slope")
    x = torch.randn(2, 2, 6, 5, generator=torch.Generator().manual_seed(0)).double()

    def norm(y: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{key}.{n}"].double() for n in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(y, mean, var, weight, bias)

    y = norm(functional.conv2d(x, state["0.weight"].double(), state["0.bias"].double()), f"{at}norm1")
    y = 0.75 * y.clamp(min=0) + 0.25 * y
    y = norm(functional.conv2d(y, state[f"{at}conv.weight"].double(), state[f"{at}conv.bias"].double()), f"{at}norm2")
    torch.testing.assert_close(run64(deep, state, x), y.clamp(min=0), rtol=0, atol=1e-13)


def test_series_activations_take_the_place_of_every_relu() -> None:
    network = deepen(Small(), deep=False, series_order=2)
    series = [module for module in network.modules() if isinstance(module, SeriesActivation)]
    assert [(module.channels, module.order) for module in series] == [(8, 2), (8, 2), (6, 2)]
    assert not [node for node in network.graph.nodes if node.target in ("act", "relu", functional.relu)]


def test_network_and_its_modes_are_left_as_they_were() -> None:
    network = Small().train()
    network.bn1.eval()
    code = network.state_dict().keys()
    assert deepen(network).training
    assert network.training and not network.bn1.training
    assert network.state_dict().keys() == code


class Sized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Moody(Small):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(super().forward(x), 0.5, self.training)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Sized(), "torch.fx cannot trace Sized .*Deepened"),
        (Moody(), "Moody reads self.training"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), "Sequential has no conv with an activation behind it"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.MaxPool2d(2)), "Sequential has no conv with an activation behind it"),
    ],
)
def test_what_cannot_be_deepened_is_told(network: nn.Module, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        deepen(network)


def test_network_that_is_deep_already_is_refused() -> None:
    with pytest.raises(SourceError, match="fading activations already"):
        deepen(create("vanillanet_digits"))


@pytest.mark.parametrize(
    "slope", [0.5, pytest.param(0.0, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.slow)]
)
def test_checkpoint_keeps_its_slope(slope: float, tmp_path: Path) -> None:
    """No epoch beside the weights, as in a state dict that a user saved: the slope comes back all the same."""
    network = create("resnet_digits")
    set_slope(network, slope)
    path = tmp_path / "deep.pth"
    torch.save(network.state_dict(), path)
    loaded = load_checkpoint("resnet_digits", path)
    slopes = [float(value) for key, value in loaded.module.state_dict().items() if key.endswith("slope")]
    assert slopes == [slope] * 5
    _, report = reparameterize(loaded.module, torch.randn(2, 1, 32, 32))
    assert report.counts_after["conv"] == report.counts_before["conv"] - 5 * (slope == 1.0)


def test_checkpoint_without_its_slope_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.pth"
    state = create("resnet_digits").state_dict()
    torch.save({key: value for key, value in state.items() if not key.endswith("slope")}, path)
    with pytest.raises(CheckpointError, match=r"5 keys missing .*fade\.slope"):
        load_checkpoint("resnet_digits", path)


def test_slope_out_of_range_is_refused() -> None:
    network = create("resnet_digits")
    state = network.state_dict()
    (key, *_) = (key for key in state if key.endswith("slope"))
    with pytest.raises(CheckpointError, match=f"{key} is 1.5; wanted a number from 0 to 1"):
        network.load_state_dict({**state, key: torch.tensor(1.5)})


@pytest.mark.parametrize("name", ["alexnet", "resnet_50"])
def test_options_deepen_the_networks_of_table_2(name: str) -> None:
    with torch.device("meta"):
        published = create(name).state_dict().keys()
        deep = create(name, deep=True, series_order=3).state_dict().keys()
        deploy = create(name, deep=True, series_order=3, deploy=True).state_dict().keys()
    assert published < deep and all(key.startswith("deepened.") for key in deep - published)
    assert not any("fade" in key or "running" in key for key in deploy)
