"""ParNet: both forms, both activations, and what its gates and its fusion compute."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plainconv.exporter.reparam import reparameterize
from plainconv.models import create
from plainconv.models.parnet import Ensemble
from plainconv.models.parnet_blocks import Branches, Interleave, shuffle

Run = Callable[[nn.Module, Mapping[str, Tensor], Tensor], Tensor]
Draw = Callable[[nn.Module], dict[str, Tensor]]

EPS = 1e-5


def test_streams_have_4_5_and_5_blocks() -> None:
    with torch.device("meta"):
        network = create("parnet_m")
    assert [len(stream) for stream in network.streams] == [4, 5, 5]


def test_shuffle_takes_channels_of_the_groups_in_turn() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffle(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_interleave_alternates_two_streams() -> None:
    a, b = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1), torch.tensor([10.0, 11.0]).view(1, 2, 1, 1)
    assert Interleave()((a, b)).flatten().tolist() == [0, 10, 1, 11]


def _gate(x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    return functional.conv2d(x.mean((2, 3), keepdim=True), weight, groups=groups).sigmoid()


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_stride_1_block_gates_its_skip(activation: str, drawn_state: Draw, run64: Run) -> None:
    """y = act(conv(x) + s·σ(W·GAP(s))), s = BN(x) (Non-deep Networks §3.1)."""
    block = Branches(4, 4, 1, activation=activation, deploy=True)
    state = {key: tensor.double() for key, tensor in drawn_state(block).items()}
    x = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    scale = state["rbr_identity.weight"] / (state["rbr_identity.running_var"] + EPS).sqrt()
    shift = state["rbr_identity.bias"] - state["rbr_identity.running_mean"] * scale
    skip = x * scale.view(4, 1, 1) + shift.view(4, 1, 1)
    conv = functional.conv2d(x, state["rbr_dense.weight"], state["rbr_dense.bias"], padding=1)
    before = conv + skip * _gate(skip, state["se.cvsig.conv.weight"])
    expected = before.clamp(min=0) if activation == "relu" else before * before.sigmoid()
    torch.testing.assert_close(run64(block, state, x), expected, rtol=0, atol=1e-13)


def test_fusion_block_gates_its_output_and_shuffles(drawn_state: Draw, run64: Run) -> None:
    """y = shuffle(act(conv(x)·2σ(W·GAP(x)))), two groups (Non-deep Networks §3.2)."""
    block = Branches(8, 6, 2, 2, activation="relu", deploy=True)
    state = {key: tensor.double() for key, tensor in drawn_state(block).items()}
    x = torch.randn(2, 8, 6, 8, generator=torch.Generator().manual_seed(0)).double()
    conv = functional.conv2d(x, state["rbr_dense.weight"], state["rbr_dense.bias"], 2, 1, groups=2)
    before = (conv * 2 * _gate(x, state["se.cvsig.conv.weight"], groups=2)).clamp(min=0)
    expected = torch.stack([before[:, :3], before[:, 3:]], dim=2).flatten(1, 2)
    torch.testing.assert_close(run64(block, state, x), expected, rtol=0, atol=1e-13)


def _deploy_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """w3·(γ/σ) plus the 1×1 branch as a 3×3 kernel: its centre, or behind a 2×2 average, a quarter on its last 2×2."""
    state = {key: tensor.double() for key, tensor in state.items()}
    fused = {key: tensor for key, tensor in state.items() if ".rbr_dense." not in key and ".rbr_1x1." not in key}
    for key in state:
        if not key.endswith("rbr_dense.conv.weight"):
            continue
        block = key.removesuffix(".rbr_dense.conv.weight")
        weight, bias = torch.zeros_like(state[key]), torch.zeros_like(state[key][:, 0, 0, 0])
        for branch in (f"{block}.rbr_dense", f"{block}.rbr_1x1", f"{block}.rbr_1x1.1"):
            if f"{branch}.conv.weight" not in state:
                continue
            scale = state[f"{branch}.bn.weight"] / (state[f"{branch}.bn.running_var"] + EPS).sqrt()
            scaled = state[f"{branch}.conv.weight"] * scale.view(-1, 1, 1, 1)
            bias += state[f"{branch}.bn.bias"] - state[f"{branch}.bn.running_mean"] * scale
            if branch.endswith("rbr_dense"):
                weight += scaled
            elif branch.endswith(".1"):
                weight[:, :, 1:, 1:] += scaled / 4
            else:
                weight[:, :, 1:2, 1:2] += scaled
        fused[f"{block}.rbr_dense.weight"], fused[f"{block}.rbr_dense.bias"] = weight, bias
    return fused


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_deploy_form_computes_the_training_form(activation: str, drawn_state: Draw, run64: Run) -> None:
    training, deploy = (
        create("parnet_digits", in_channels=3, activation=activation, deploy=deploy) for deploy in (False, True)
    )
    state = drawn_state(training)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected = run64(training, state, x)
    assert expected.shape == (2, 10)
    torch.testing.assert_close(run64(deploy, _deploy_state(state), x), expected, rtol=0, atol=1e-11)


def test_deploy_form_keeps_the_norms_that_hand_fusion_keeps() -> None:
    with torch.device("meta"):
        keys = create("parnet_s", deploy=True).state_dict().keys()
    norms = {key.removesuffix(".running_var") for key in keys if key.endswith("running_var")}
    skips = {f"streams.{s}.{b}.block.rbr_identity" for s, blocks in enumerate((4, 5, 5)) for b in range(blocks)}
    fusions = {"downsamples_2.1.0.b1", "downsamples_2.1.0.b2", "combine.0.b1", "combine.0.b2"}
    assert norms == skips | fusions


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": [0, 0, 0, 6]},
        {"blocks": [0, 0, 2, 2]},
        {"blocks": [0, 2, 0, 2]},
        {"blocks": [1, 1, 1, 1]},
        {"blocks": [0, 1, 2, 2], "gates": False},
    ],
)
def test_deploy_form_of_any_streams_computes_the_training_form(
    options: dict[str, object], drawn_state: Draw, run64: Run
) -> None:
    training, deploy = (
        create("parnet_digits", in_channels=3, activation="silu", deploy=form, **options) for form in (False, True)
    )
    state = drawn_state(training)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected = run64(training, state, x)
    torch.testing.assert_close(run64(deploy, _deploy_state(state), x), expected, rtol=0, atol=1e-11)
    assert len(training.streams) == sum(blocks > 0 for blocks in options["blocks"])
    assert any(".se." in key for key in state) == options.get("gates", True)


def test_cifar_s_first_stream_is_of_the_image_s_size() -> None:
    """Depth 1 to 3 keep the 32 pixels; the last conv is 1×1 (Non-deep Networks §3.3)."""
    with torch.device("meta"):
        network = create("parnet_cifar10_32").eval()
        outputs, fused = network.fused(torch.empty(1, 3, 32, 32))
        assert [tuple(y.shape[1:]) for y in outputs] == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]
        assert network.combine(fused).shape == (1, 256, 8, 8)
    assert [len(stream) for stream in network.streams] == [3, 4, 4]


def test_ensemble_is_the_mean_of_its_members() -> None:
    network = Ensemble(create("parnet_digits", blocks=[0, 0, 0, 1]) for _ in range(3)).eval()
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        members = [member(x) for member in network.members]
        torch.testing.assert_close(network(x), sum(members) / 3)
    assert not torch.equal(members[0], members[1])


def test_reparameterized_only_norms_that_a_gate_or_a_border_needs_are_left(drawn_state: Draw) -> None:
    """Without gates: those before a fusion, whose shift meets a padded conv."""
    network = create("parnet_digits", gates=False)
    network.load_state_dict(drawn_state(network))
    _, report = reparameterize(network.double().eval(), torch.randn(2, 1, 64, 96).double())
    assert report.counts_after["norm"] == 4
    one = create("parnet_digits", gates=False, blocks=[0, 0, 0, 3])
    one.load_state_dict(drawn_state(one))
    _, report = reparameterize(one.double().eval(), torch.randn(2, 1, 64, 96).double())
    assert report.counts_after["norm"] == 0
