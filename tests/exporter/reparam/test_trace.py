"""Modules that are no fixed function, or not a float one, are refused with a reason."""

import importlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from plainconv.exporter.errors import ReparamError
from plainconv.exporter.reparam import reparameterize

X = torch.randn(1, 4, 8, 8)
TRACE = importlib.import_module("plainconv.exporter.reparam.trace")


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU()).eval()


class Then(nn.Module):
    """The chain, and what a test makes of its map."""

    def __init__(self, tail) -> None:
        super().__init__()
        self.body, self.tail = chain(), tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(x))


def test_a_hook_that_does_the_same_each_time_is_part_of_the_function() -> None:
    net = chain()
    net[2].register_forward_hook(lambda module, args, output: 2.0 * output)
    plain, report = reparameterize(net, X)
    assert torch.allclose(plain(X), net(X), atol=1e-5) and report.counts_after["conv"] == 1


def test_a_hook_that_changes_from_call_to_call_is_refused() -> None:
    net, calls = chain(), []

    def drifting(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        calls.append(None)
        return output * len(calls)

    net[1].register_forward_hook(drifting)
    with pytest.raises(ReparamError, match=r"two answers for one input.*hook"):
        reparameterize(net, X)


def test_a_forward_that_writes_its_buffer_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    with pytest.raises(ReparamError, match=r"calls.*from call to call"):
        reparameterize(nn.Sequential(chain(), Counting()).eval(), X)


def test_random_numbers_in_eval_mode_are_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(ReparamError, match="draws random numbers"):
        reparameterize(nn.Sequential(chain(), Noisy()).eval(), X)


@pytest.mark.parametrize("make", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_constant_parametrization_folds_into_the_weight(make: object) -> None:
    net = chain()
    make(net[0])  # type: ignore[operator]
    net.eval()
    plain, report = reparameterize(net, X)
    assert torch.allclose(plain(X), net(X), atol=1e-5)
    assert report.counts_after == {"conv": 1, "linear": 0, "norm": 0}
    assert parametrize.is_parametrized(net[0])


def test_a_random_parametrization_is_refused() -> None:
    class Jitter(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w + torch.randn_like(w)

    net = chain()
    parametrize.register_parametrization(net[0], "weight", Jitter(), unsafe=True)
    with pytest.raises(ReparamError, match="random numbers"):
        reparameterize(net.eval(), X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantized_module_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4)).eval()
    quantized = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    with pytest.raises(ReparamError, match=r"0 is quantized \(Linear\).*then quantize"):
        reparameterize(quantized, torch.randn(1, 4))


def test_data_dependent_control_flow_names_both_tracers() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ReparamError, match=r"torch\.export \(.*torch\.fx \(.*control flow"):
        reparameterize(Branching().eval(), X)


def test_control_flow_on_shapes_and_asserts_are_folded_away() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = chain()

        def forward(self, x: Tensor) -> Tensor:
            _, c, h, _ = x.shape
            assert c == 4, "four channels"
            torch._check(h >= 2)
            return self.net(x) if c > 2 else x

    plain, report = reparameterize(Checked().eval(), X)
    assert {node.op for node in plain.graph.nodes} == {"placeholder", "call_module", "call_function", "output"}
    assert sum(node.op == "call_function" for node in plain.graph.nodes) == 1  # the ReLU
    assert report.counts_after["conv"] == 1


def test_a_size_that_the_code_took_for_a_number_becomes_a_guard() -> None:
    """Given squeeze-and-excitation by a pool of the map's own size → Result it raises where that is another."""

    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.gate = chain(), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.net(x)
            return y * self.gate(nn.functional.avg_pool2d(y, kernel_size=[y.size(2), y.size(3)])).sigmoid()

    module = Squeeze().eval()
    plain, report = reparameterize(module, X)
    assert report.guards and "size guard: " in str(report)
    assert torch.allclose(plain(X), module(X), atol=1e-5)
    with pytest.raises(ReparamError, match="holds for sizes with"):
        plain(torch.randn(1, 4, 10, 10))


def test_a_branch_on_the_size_becomes_a_guard() -> None:
    class Shrinking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = chain()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x if x.shape[2] <= 16 else nn.functional.max_pool2d(x, 2))

    plain, report = reparameterize(Shrinking().eval(), X)
    assert report.guards == ("x.size()[2] <= 16",)
    with pytest.raises(ReparamError, match="holds for sizes with"):
        plain(torch.randn(1, 4, 20, 20))


def doubled_if_few(y: Tensor) -> Tensor:
    return y * 2.0 if len(y) < 3 else y


def moved_if_alone(y: Tensor) -> Tensor:
    return y + 1.0 if y.shape[0] == 1 else y


def image_by_image(y: Tensor) -> Tensor:
    return torch.stack([each.amax((1, 2)) for each in y])


@pytest.mark.parametrize("tail", [doubled_if_few, moved_if_alone, image_by_image])
@pytest.mark.parametrize("open_sizes", [True, False])
def test_a_network_that_reads_its_batch_is_traced_at_that_of_the_example(tail, open_sizes) -> None:
    """Given a branch on the batch, or a loop over images -> the network for one image where the example is one."""
    module = Then(tail).eval()
    plain, report = reparameterize(module, X, open_sizes=open_sizes)
    assert report.guards[-1].endswith(".size()[0] == 1") and report.counts_after["conv"] == 1
    assert torch.allclose(plain(X), module(X), atol=1e-5)
    three = torch.cat([X, X, X])
    plain, _ = reparameterize(module, three, open_sizes=open_sizes)
    assert torch.allclose(plain(three), module(three), atol=1e-5)


def test_ordinary_networks_have_no_guard() -> None:
    _, report = reparameterize(nn.Sequential(chain(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), X)
    assert report.guards == ()


def test_a_counter_that_the_result_does_not_read_is_dropped() -> None:
    class Stepping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = chain()
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            return self.body(x)

    net = Stepping().eval()
    plain, report = reparameterize(net, X)
    assert report.counts_after == {"conv": 1, "linear": 0, "norm": 0} and "steps" not in plain.state_dict()


@pytest.mark.parametrize(
    "act",
    [
        lambda x: nn.functional.dropout(x, 0.0),
        lambda x: nn.functional.dropout(x, 0.4, training=False),
        lambda x: nn.functional.alpha_dropout(x, 0.4, training=False),
        lambda x: nn.functional.feature_alpha_dropout(x, 0.4, training=False),
        lambda x: nn.functional.rrelu(x),
        lambda x: nn.functional.rrelu(x, 0.2, 0.6),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.0, is_causal=True),
    ],
)
def test_an_op_whose_arguments_switch_chance_off_is_not_random(act) -> None:
    net = Then(act).eval()
    plain, _ = reparameterize(net, X)
    assert torch.allclose(plain(X), net(X), atol=1e-5)
    left = [str(node.target) for node in plain.graph.nodes]
    assert not any("dropout." in target or "rrelu" in target for target in left)


@pytest.mark.parametrize(
    "act",
    [
        lambda x: nn.functional.dropout(x, 0.4),
        lambda x: nn.functional.rrelu(x, training=True),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
        lambda x: x + torch.randn_like(x),
        lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    ],
)
def test_an_op_of_chance_is_refused(act) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return act(x)

    with pytest.raises(ReparamError, match="draws random numbers"):
        reparameterize(Net().eval(), X)


@pytest.mark.parametrize(
    ("first", "weighted"),
    [
        (True, False),
        (False, True),
        pytest.param(True, True, marks=pytest.mark.slow),
        pytest.param(False, False, marks=pytest.mark.slow),
    ],
)
def test_attention_in_eval_mode_is_traced(first: bool, weighted: bool) -> None:
    """Given attention over the positions → Result a plain network for any batch and size, one of each among them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha, self.norm = nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=first), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x).flatten(2)
            y = y.transpose(1, 2) if first else y.permute(2, 0, 1)
            return self.mha(y, y, y, need_weights=weighted)[0]

    net = Net().eval()
    plain, report = reparameterize(net, X)
    assert report.guards == ()
    for size in ((1, 4, 8, 8), (3, 4, 8, 8), (2, 4, 5, 1), (1, 4, 1, 7)):
        x = torch.randn(size)
        assert torch.allclose(plain(x), net(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_scripted_and_a_lazy_module_are_refused_in_one_line() -> None:
    with pytest.raises(ReparamError, match=r"is a TorchScript module.*give the nn.Module"):
        reparameterize(torch.jit.script(chain()), X)
    with pytest.raises(ReparamError, match=r"^1 is lazy and has no weights yet; call the network once"):
        reparameterize(nn.Sequential(nn.ReLU(), nn.LazyConv2d(4, 3)).eval(), X)


def test_a_size_that_the_trace_does_not_hold_for_is_refused_in_words() -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.shape[2] < 18 else -x

    net, x = nn.Sequential(chain(), Rows()).eval(), torch.randn(1, 4, 16, 16)
    plain, report = reparameterize(net, x)
    assert report.guards
    assert torch.allclose(plain(x), net(x), atol=1e-5)
    with pytest.raises(ReparamError, match=r"holds for sizes with .*; found 1×4×18×16; reparameterize"):
        plain(torch.randn(1, 4, 18, 16))


def test_pools_that_round_up_hold_at_every_size() -> None:
    pools = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2, 1, ceil_mode=True)
    net = nn.Sequential(chain(), *pools).eval()
    plain, report = reparameterize(net, torch.randn(1, 4, 16, 16))
    assert report.guards == ()
    for size in ((16, 16), (17, 18), (18, 16), (5, 7)):
        x = torch.randn(2, 4, *size)
        assert torch.allclose(plain(x), net(x), atol=1e-5)


def test_an_equality_that_makes_a_size_a_number_is_a_guard() -> None:
    """Given a slice that takes all rows at this size, and other work with sizes → Result it is refused at others."""

    class Cropped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, :16] * x.shape[3]

    net = nn.Sequential(chain(), Cropped()).eval()
    plain, _ = reparameterize(net, torch.randn(1, 4, 16, 16))
    for rows in (15, 17, 20):
        x = torch.randn(1, 4, rows, 16)
        try:
            got = plain(x)
        except ReparamError:
            continue
        assert torch.allclose(got, net(x), atol=1e-5), rows


@pytest.mark.parametrize(
    ("cut", "quick"),
    [
        (lambda x: x[:, :4], True),
        (lambda x: x[:, -9:] + x[:, 0:4], True),
        (lambda x: torch.cat([x, x], 1)[:, :8].add_(1), True),
        (lambda x: x[:, :, :16], False),
        pytest.param(lambda x: x[..., None, :20].squeeze(3), False, marks=pytest.mark.slow),
        pytest.param(lambda x: x[:, :, -16:], False, marks=pytest.mark.slow),
        pytest.param(lambda x: x[:2], False, marks=pytest.mark.slow),
    ],
)
def test_a_slice_of_all_there_is_is_seen_where_the_size_is_open(cut, quick: bool, monkeypatch) -> None:
    """Given channels, or rows, all of which a slice takes at this size -> one trace at it; else with symbols."""

    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return cut(x)

    net, symbolic = nn.Sequential(chain(), Cut(), nn.ReLU()).eval(), []
    by_symbols = TRACE._by_symbols
    monkeypatch.setattr(TRACE, "_by_symbols", lambda *a: (symbolic.append(a), by_symbols(*a))[1])
    plain, report = reparameterize(net, torch.randn(1, 4, 16, 16))
    assert bool(symbolic) is not quick
    assert report.ops_before.get("slice", 0) == 0 or not quick
    for size in ((16, 16), (12, 18), (21, 23)):
        x = torch.randn(2, 4, *size)
        try:
            got = plain(x)
        except ReparamError:
            assert not quick
            continue
        assert torch.allclose(got, net(x), atol=1e-5)
