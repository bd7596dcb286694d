"""ResNet: the layout, the deploy form, the gated shortcut."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from plainconv.models import create
from plainconv.models.resnet import Block, ResNet

Draw = Callable[[nn.Module], dict[str, Tensor]]
Run = Callable[[nn.Module, Mapping[str, Tensor], Tensor], Tensor]


def _folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """w·(γ/σ) and β − μ·γ/σ, for each conv with the norm of the same number."""
    state = {key: tensor.double() for key, tensor in state.items()}
    folded = {key: tensor for key, tensor in state.items() if ".se." in key or key.startswith("fc")}
    for key in state:
        norm = key.removesuffix(".weight").replace("conv", "bn").replace("downsample.0", "downsample.1")
        if f"{norm}.running_var" not in state or norm == key.removesuffix(".weight"):
            continue
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        folded[key] = state[key] * scale.view(-1, 1, 1, 1)
        folded[key.replace("weight", "bias")] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return folded


def test_deploy_form_computes_the_training_form(drawn_state: Draw, run64: Run) -> None:
    for kind, gates in (("basic", True), ("bottleneck", False)):
        training, deploy = (
            ResNet((2, 1, 1, 1), block=kind, width=8, gates=gates, num_classes=5, deploy=form) for form in (False, True)
        )
        state = drawn_state(training)
        x = torch.randn(2, 3, 65, 70, generator=torch.Generator().manual_seed(0))
        expected = run64(training, state, x)
        torch.testing.assert_close(run64(deploy, _folded(state), x), expected, rtol=1e-11, atol=1e-11)


def test_gate_is_on_the_shortcut(drawn_state: Draw, run64: Run) -> None:
    """y = act(F(x) + s·σ(W·GAP(s))): without F, and s = x, that is act(x·σ(W·GAP(x)))."""
    block = Block(4, 4, 1, "basic", gates=True, activation="silu", deploy=True)
    state = {key: tensor.double() for key, tensor in drawn_state(block).items()}
    state = {key: tensor * 0 if key.startswith("conv2") else tensor for key, tensor in state.items()}
    x = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    gate = torch.einsum("oi,ni->no", state["se.cvsig.conv.weight"][..., 0, 0], x.mean((2, 3))).sigmoid()
    before = x * gate[..., None, None]
    torch.testing.assert_close(run64(block, state, x), before * before.sigmoid(), rtol=0, atol=1e-13)


def test_wide_networks_have_depth_12() -> None:
    with torch.device("meta"):
        network = create("resnet12_wide")
    convs = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert len([name for name in convs if "downsample" not in name]) == 11  # and the classifier
