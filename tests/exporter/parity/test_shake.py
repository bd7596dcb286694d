"""Networks that normalize what they see: on a flat image only a rounding is left of it, and that is amplified."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainconv.exporter.parity import evaluate, reference_from_module, run_module
from plainconv.exporter.parity.shake import Choices, shaken
from plainconv.exporter.source.network import Request
from plainconv.exporter.source.resolve import load_network

EXAMPLE = torch.zeros(1, 3, 16, 16)


class OnBatchStatistics(nn.BatchNorm2d):
    """A batch norm whose statistics are never tracked."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)


def normalizing(norm: type[nn.Module], blocks: int = 3) -> nn.Module:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for i in range(blocks):
        layers += [nn.Conv2d(8 if i else 3, 8, 3, padding=0), norm(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


class OtherMeans(nn.Module):
    """Normalizes as the sum of squares less the square of the sum: as right, and rounded otherwise."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(2).flip(2).cumsum(2)[..., -1] / (x.shape[2] * x.shape[3])
        off = x - mean[..., None, None]
        return off / (off.square().flatten(2).mean(2)[..., None, None] + self.eps).sqrt()


def with_other_means(net: nn.Module) -> nn.Module:
    return nn.Sequential(*(OtherMeans(m) if hasattr(m, "num_features") else m for m in net))  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, OnBatchStatistics])
def test_flat_images_of_a_normalizing_network_are_left_out_or_judged_by_their_rounding(norm: type[nn.Module]) -> None:
    net = normalizing(norm)
    reference = reference_from_module(net, EXAMPLE)
    assert "zeros" not in reference.kinds
    assert any("the image of zeros is left out: one rounding" in line for line in reference.left_out)
    assert set(reference.kinds) >= {"normal", "large"}
    (parity,) = reference.judge("other means", run_module(with_other_means(net)))
    assert parity, str(parity)
    assert parity.tolerance < 1e-3


@pytest.mark.parametrize("wrong", [1.001, -1.0])
def test_a_normalizing_network_that_is_wrong_is_refused(wrong: float) -> None:
    net = normalizing(nn.InstanceNorm2d)
    reference = reference_from_module(net, EXAMPLE)
    (parity,) = reference.judge("step", lambda x: [run_module(net)(x)[0] * np.float32(wrong)])
    assert not parity


def test_flat_images_of_other_networks_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    reference = reference_from_module(net, EXAMPLE)
    assert not reference.left_out
    assert {"zeros", "hot"} <= set(reference.kinds)
    assert reference.outputs["logits"].moved.max() < 1e-5


def test_each_value_is_moved_by_about_one_rounding_and_the_network_left_as_it_is() -> None:
    net = nn.Sequential(nn.Identity())
    x = np.full((1, 3, 8, 8), 0.75, np.float32)
    (y,) = shaken(net, 1.0, 0)(x)
    assert 0 < np.abs(y - x).max() < 2.0**-20
    assert np.array_equal(shaken(net, 1.0, 0)(x)[0], y)
    assert np.array_equal(run_module(net)(x)[0], x)
    assert np.array_equal(shaken(net, 1.0, 0)(np.round(x))[0], np.round(x))


class Saturates(nn.Module):
    """All that is behind its layer is called outside any module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.layer(x).sigmoid()
        return scores.flatten(1).argsort(dim=1, descending=True, stable=True), scores


def test_functions_that_runtimes_approximate_are_moved_wherever_they_are_called() -> None:
    """Given scores that saturate -> their order is one of chance, as each runtime has a sigmoid of its own."""
    net, x = Saturates(), np.full((1, 1, 8, 8), 40.0, np.float32)
    order, scores = shaken(net, 1.0, 0)(x)
    assert (run_module(net)(x)[0] == np.arange(64)).all() and not (order == np.arange(64)).all()
    assert np.abs(scores - 1).max() < 2.0**-20


class Deviation(nn.Module):
    """Appends the standard deviation over the batch, which one image alone does not have, as a channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.std(0).mean().expand(len(x), 1, *x.shape[2:])], 1)


def test_a_network_that_takes_no_image_alone_mixes_those_of_its_batch() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Deviation(), nn.Conv2d(9, 4, 3), nn.Flatten()).eval()
    reference = reference_from_module(net, torch.zeros(4, 3, 16, 16))
    assert reference.mixes
    assert not reference.left_out
    assert all(reference.judge("eager", run_module(net)))


LOOP = """<ir_version: 10, opset_import: ["": 20]>
loops (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y)
<int64 trips = {3}, bool go = {1}, float[1] half = {0.5}>
{
  y = Loop (trips, go, x) <body = once (int64 i, bool on, float[1, 3, 8, 8] a) => (bool still, float[1, 3, 8, 8] next)
    { next = Mul (a, half)  still = Identity (on) }>
}
"""


def test_a_graph_with_a_loop_is_not_shaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop may end where what it computes stays as it is, and never where values that belong together move apart."""
    path = tmp_path / "loops.onnx"
    onnx.save(onnx.parser.parse_model(LOOP), path)
    network = load_network(str(path), Request())
    seen: list[object] = []
    monkeypatch.setattr(evaluate, "shaken", lambda *arguments: seen.append(arguments))
    reference = reference_from_module(network.module, network.inputs, output_names=("y",))
    assert seen == [] and reference.outputs["y"].spread > 0


@pytest.mark.parametrize(("function", "decides"), [
    (lambda x: x.relu().sigmoid(), False), (lambda x: F.max_pool2d(x, 2), False), (lambda x: x.sort(3)[0], True),
    (lambda x: x > 0, True), (lambda x: x.argmax(1), True), (lambda x: x.amax(1), False), (lambda x: x.floor(), True),
    (lambda x: x.long(), True), (lambda x: torch.where(x > 0, x, 2 * x), True),
])  # fmt: skip
def test_a_network_that_decides_is_seen_to(function: Callable[[Tensor], Tensor], decides: bool) -> None:
    with Choices() as choices:
        function(torch.ones(1, 2, 4, 4))
    assert choices.seen is decides


def test_a_smooth_network_is_not_seen_to_decide_where_it_is_shaken() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Sigmoid())
    with Choices() as choices:
        shaken(net, 1.0, 0)(np.ones((1, 3, 8, 8), np.float32))
    assert not choices.seen


class Mask(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x.mean(1) > 0.1).float(), x.sum(1).sign() * 3


def test_masks_in_floats_are_held_to_what_they_are() -> None:
    """Given zeros and ones, or other whole numbers, in float32 -> a thousandth may differ, however they are shaken."""
    reference = reference_from_module(Mask(), torch.zeros(1, 3, 32, 32))
    found = reference.run(run_module(Mask()))
    held = reference.compare("step", found)
    assert all(held) and held[0].tolerance <= 1e-3
    for k in range(2):
        wrong = [y.copy() for y in found]
        wrong[k][:, 3:9] = 0
        assert not reference.compare("step", wrong)[k]


class Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).cumsum(2)


def test_a_running_sum_may_be_rounded_at_each_step() -> None:
    """Given a running sum, which PyTorch keeps in float64 -> what adding one by one in float32 leaves is passed."""
    reference = reference_from_module(Sums(), torch.zeros(1, 1, 32, 32))
    one_by_one = [np.cumsum(x.reshape(len(x), 1, -1), axis=2, dtype=np.float32) for x in reference.arrays]
    assert all(reference.compare("step", one_by_one))
    assert not reference.compare("step", [one_by_one[0] * np.float32(1.001)])[0]


class Share(nn.Module):
    """How much of an image is above a threshold that many pixels are next to."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        near = (3 * x + 1e-7 * x.flip(2) > 0.3 + x * 2 - 2e-7 * x.flip(3)) & (x.abs() < 9)
        return near.float().mean((1, 2, 3))[:, None], near.sum((1, 2, 3))


def test_what_is_counted_of_decisions_may_be_off_as_float32_is_itself() -> None:
    """Given counts of 50,000 decisions -> another order of the terms holds; one more in every image does not."""
    reference = reference_from_module(Share(), torch.zeros(1, 3, 128, 128))

    def other(x: np.ndarray) -> list[np.ndarray]:
        near = (x * np.float32(1) + np.float32(1e-7) * x[:, :, ::-1] + np.float32(2e-7) * x[..., ::-1]) > np.float32(
            0.3
        )
        near &= np.abs(x) < 9
        return [near.mean((1, 2, 3), dtype=np.float32)[:, None], near.sum((1, 2, 3))]

    found = reference.run(other)
    assert [p.status for p in reference.compare("step", found)] == ["held"] * 2
    one_more = reference.compare("step", [found[0] + np.float32(3 * 128 * 128) ** -1, found[1] + 1])
    assert one_more[1].failed
