"""Of equal values the first: what a user's own topk and sort choose is the same in PyTorch and in ONNX."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.parity import float64_outputs, reference_from_module, run_module, run_onnx
from plainconv.exporter.parity.ties import FirstOfEquals
from plainconv.exporter.to_onnx.export import onnx_from_module

X = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).mul(2).round()
LARGEST, LEAST = (np.argsort(sign * X.numpy(), axis=1, kind="stable") for sign in (-1, 1))


@pytest.mark.parametrize(
    ("places", "wanted"),
    [
        (lambda x: x.topk(40)[1], LARGEST[:, :40]),
        (lambda x: torch.topk(x, k=40, dim=1, sorted=False).indices, LARGEST[:, :40]),
        (lambda x: x.topk(500)[1], LARGEST),
        (lambda x: x.topk(40)[1].view(120).view(3, 40), LARGEST[:, :40]),
        (lambda x: x.topk(40, 1, False)[1], LEAST[:, :40]),
        (lambda x: x.T.topk(40, largest=False, dim=0)[1].T, LEAST[:, :40]),
        (lambda x: x.T.topk(40, 0)[1].T, LARGEST[:, :40]),
        (lambda x: x.sort(dim=1)[1], LEAST),
        (lambda x: torch.sort(x, descending=True).indices, LARGEST),
        (lambda x: x.argsort(1, True), LARGEST),
        (lambda x: x.argsort(dim=1, stable=True), LEAST),
        (lambda x: x.argmax(1, keepdim=True), LARGEST[:, :1]),
        (lambda x: x.min(1, keepdim=True)[1], LEAST[:, :1]),
    ],
)
def test_the_first_of_equals(places: Callable[[Tensor], Tensor], wanted: np.ndarray) -> None:
    with FirstOfEquals():
        assert np.array_equal(places(X).numpy(), wanted)

    class Places(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return places(x)

    assert np.array_equal(float64_outputs(Places(), (X,)).numpy(), wanted)
    with FirstOfEquals():
        assert torch.tensor(3.0).topk(1)[0] == 3


class Chooses(nn.Module):
    """The best places of a map and what stands there, twice: of scores rounded to eighths, and of saturated ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.features = nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scores, features = self.scores(x).flatten(1), self.features(x).flatten(2)
        eighths = ((3 * scores).sigmoid() * 8).round()
        best = eighths.topk(20, sorted=False)[1]
        worst = eighths.argsort(1)[:, :20]
        here, there = (torch.gather(features, 2, at[:, None].expand(-1, 4, -1)) for at in (best, worst))
        return here, there, best, (1e3 * scores).sigmoid().topk(20)[1]


NAMES = ("best", "worst", "places", "saturated")


def test_what_a_network_chooses_among_equals_is_certified(tmp_path: Path) -> None:
    """Given its own topk and sort -> held in ONNX; other equals, or what float32 cannot tell, is not."""
    net, example = Chooses().eval(), torch.zeros(1, 3, 16, 16)
    reference = reference_from_module(net, example, output_names=NAMES)
    path = onnx_from_module(net, example, tmp_path / "net.onnx", output_names=NAMES)
    assert all(node.attribute[2].i for node in onnx.load(path).graph.node if node.op_type == "TopK")
    for run in (run_module(net), run_onnx(path)):
        parities = reference.judge("step", run)
        assert [p.status for p in parities[:3]] == ["held"] * 3
        assert parities[3].status.startswith("not certified: eager float32 itself differs from float64 in ")
    found = reference.run(run_onnx(path))
    found[2] = np.concatenate([found[2][:, 1:], found[2][:, :1]], 1)
    assert not reference.compare("step", found)[2]
