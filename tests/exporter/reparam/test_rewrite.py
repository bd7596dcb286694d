"""What the plain network keeps: constants computed once, weights that are used twice stored once."""

import pytest
import torch
from collapse import check_collapse
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from plainconv.exporter.reparam import reparameterize
from plainconv.exporter.source.randomize import randomized


class Standardized(nn.Conv2d):
    """A convolution whose weight is standardized: by var_mean, or by a batch norm of the weight."""

    def __init__(self, how: str, channels: int = 4) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.how, self.gain = how, nn.Parameter(torch.rand(channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        if self.how == "var_mean":
            var, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True, unbiased=False)
            w = (w - mean) * torch.rsqrt(var + 1e-5) * self.gain
        elif self.how == "batch_norm":
            flat = w.reshape(1, len(w), -1)
            w = F.batch_norm(flat, None, None, self.gain.flatten(), training=True, momentum=0.0).reshape_as(w)
        elif self.how == "chunk":
            one, other = (w * 2).chunk(2)
            w = torch.cat([other, one.flip(0)])
        elif self.how == "unbind":
            w = torch.stack(w.unbind(0)[::-1])
        elif self.how == "qr":
            q, r = torch.linalg.qr(w.flatten(1).T)
            w = q.T.reshape(w.shape) * r.diagonal().view(-1, 1, 1, 1)
        else:
            w = torch.matrix_exp(w[:, :, 1, 1])[:, :, None, None] * w
        return F.conv2d(x, w, self.bias, 1, 1)


HOWS = ("var_mean", "batch_norm", "chunk", "unbind", "qr", "matrix_exp")


@pytest.mark.parametrize("how", HOWS)
def test_a_computed_weight_takes_its_norm_in(how: str) -> None:
    net = nn.Sequential(Standardized(how), nn.BatchNorm2d(4), nn.ReLU())
    check_collapse(net, (8, 8), (5, 7), convs=1)


@pytest.mark.parametrize("how", HOWS)
def test_a_weight_computed_from_parameters_alone_is_stored(how: str) -> None:
    """Given no norm to merge → Result the graph holds the weight under its name, and nothing that computes it."""
    net = nn.Sequential(Standardized(how), nn.ReLU(), Standardized(how), nn.ReLU())
    check_collapse(net, (8, 8), (5, 7))
    plain, _ = reparameterize(net, torch.randn(1, 4, 8, 8, dtype=torch.float64))
    calls = [str(node.target) for node in plain.graph.nodes if node.op == "call_function"]
    assert len(calls) == 4 and "0.weight" in plain.state_dict()


def test_a_large_computed_weight_is_stored_and_a_large_mask_is_not() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Standardized("var_mean", 256)  # 2.25 MiB
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x)) * self.scale.expand(1024, 1024)[: x.shape[2], : x.shape[3]]

    plain, _ = reparameterize(Masked().eval(), torch.randn(1, 256, 4, 4))
    assert {name: t.numel() for name, t in plain.state_dict().items() if t.numel() > 1000} == {
        "conv.weight": 256 * 256 * 9
    }


def test_an_orthogonal_layer_is_a_plain_one() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), parametrizations.orthogonal(nn.Conv2d(4, 4, 1)), nn.ReLU())
    plain, _ = reparameterize(net.eval(), torch.randn(1, 4, 8, 8))
    assert len([n for n in plain.graph.nodes if n.op == "call_function"]) == 4


class Twice(nn.Module):
    """One body on an input and on its mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x)) - torch.relu(self.body(x.flip(3)))


def test_a_body_that_is_run_twice_is_stored_once() -> None:
    net = randomized(Twice(), 0).eval()
    check_collapse(net, (8, 8), (5, 7), convs=4)
    plain, report = reparameterize(net.float(), torch.randn(1, 4, 8, 8))
    merged = 8 * 4 * 9 + 8 + 8 * 8 + 8
    assert sum(p.numel() for p in plain.parameters()) == merged and len(report.regions) == 2


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.b(torch.relu(self.a(x))))

    plain, _ = reparameterize(Tied().eval(), torch.randn(1, 4, 8, 8))
    assert sum(p.numel() for p in plain.parameters()) == 4 * 4 * 9 + 2 * 4


def test_each_of_many_weights_keeps_its_own_numbers() -> None:
    """Given weights and an index table of equal size, none of which merges → Result all are what they were."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(6))
            self.table = nn.Parameter(torch.randn(4))
            self.register_buffer("index", torch.tensor([3, 0, 2, 1]))

        def forward(self, x: Tensor) -> Tensor:
            for norm in self.norms:
                x = torch.sigmoid(norm(x))
            return x[..., self.index] + self.table[self.index.flip(0)]

    check_collapse(randomized(Biased(), 0), (4, 4), (3, 4))
    net = randomized(Biased(), 1).eval()
    plain, _ = reparameterize(net, torch.randn(1, 4, 4, 4))
    kept = dict(plain.named_parameters())
    assert all(torch.equal(kept[name], p) for name, p in net.named_parameters() if name != "table")
