"""RepVGG: both forms, grouped layers, odd sizes."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from plainconv.models import create
from plainconv.models.repvgg import RepVGG, variant

Run = Callable[[nn.Module, Mapping[str, Tensor], Tensor], Tensor]
Draw = Callable[[nn.Module], dict[str, Tensor]]

EPS = 1e-5


def test_widths_are_those_of_the_paper() -> None:
    assert variant("a0") == {"num_blocks": (2, 4, 14, 1), "widths": (48, 96, 192, 1280), "groups": 1}
    assert variant("a2")["widths"] == (96, 192, 384, 1408)
    assert variant("b1", groups=4) == {"num_blocks": (4, 6, 16, 1), "widths": (128, 256, 512, 2048), "groups": 4}
    assert variant("b3")["widths"] == (192, 384, 768, 2560)


def test_every_second_layer_is_grouped() -> None:
    with torch.device("meta"):
        network = create("repvgg_b1g4")
    groups = [m.groups for key, m in network.named_modules() if key.endswith("rbr_dense.conv")]
    assert groups == [4 if layer % 2 == 0 and layer > 0 else 1 for layer in range(28)]


def _scale_and_shift(state: Mapping[str, Tensor], norm: str) -> tuple[Tensor, Tensor]:
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPS).sqrt()
    return scale, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale


def _deploy_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """w = Σ over branches of (γ/σ)·w, each branch a 3×3 kernel; b = Σ (β − μ·γ/σ) (RepVGG §3.3)."""
    state = {key: tensor.double() for key, tensor in state.items()}
    fused = {key: tensor for key, tensor in state.items() if key.startswith("linear")}
    for key in state:
        if not key.endswith("rbr_dense.conv.weight"):
            continue
        block = key.removesuffix(".rbr_dense.conv.weight")
        scale, bias = _scale_and_shift(state, f"{block}.rbr_dense.bn")
        weight = state[key] * scale.view(-1, 1, 1, 1)
        scale, shift = _scale_and_shift(state, f"{block}.rbr_1x1.bn")
        weight[:, :, 1:2, 1:2] += state[f"{block}.rbr_1x1.conv.weight"] * scale.view(-1, 1, 1, 1)
        bias = bias + shift
        if f"{block}.rbr_identity.weight" in state:
            scale, shift = _scale_and_shift(state, f"{block}.rbr_identity")
            channels = torch.arange(len(weight))
            weight[channels, channels % weight.shape[1], 1, 1] += scale
            bias = bias + shift
        fused[f"{block}.rbr_reparam.weight"], fused[f"{block}.rbr_reparam.bias"] = weight, bias
    return fused


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_deploy_form_computes_the_training_form(groups: int, drawn_state: Draw, run64: Run) -> None:
    small = {"num_blocks": (2, 2, 3, 1), "widths": (8, 16, 16, 24), "groups": groups, "num_classes": 5}
    training, deploy = RepVGG(**small), RepVGG(**small, deploy=True)
    state = drawn_state(training)
    x = torch.randn(2, 3, 47, 64, generator=torch.Generator().manual_seed(0))
    expected = run64(training, state, x)
    assert expected.shape == (2, 5)
    logits = run64(deploy, _deploy_state(state), x)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


def test_state_dict_keys_are_the_published_ones() -> None:
    with torch.device("meta"):
        training, deploy = (create("repvgg_a0", deploy=deploy).state_dict() for deploy in (False, True))
    assert {"stage0.rbr_dense.conv.weight", "stage1.1.rbr_identity.running_var", "linear.bias"} <= training.keys()
    assert "stage0.rbr_identity.weight" not in training  # 3 channels in, 48 out
    assert {key.rpartition(".")[0].rpartition(".")[2] for key in deploy} == {"rbr_reparam", "linear", ""} - {""}
