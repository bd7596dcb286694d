"""VanillaNet: its table of widths, both forms, and other input sizes."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from plainconv.models import create
from plainconv.models.deep_training import FadingActivation, set_slope
from plainconv.models.vanillanet import options_from_state, variant

Run = Callable[[nn.Module, Mapping[str, Tensor], Tensor], Tensor]
Draw = Callable[[nn.Module], dict[str, Tensor]]

EPS = 1e-6


def test_variants_are_those_of_the_supplement() -> None:
    assert variant(5) == {"dims": (512, 1024, 2048, 4096), "strides": (2, 2, 2)}
    assert variant(6) == {"dims": (512, 1024, 2048, 4096, 4096), "strides": (2, 2, 2, 1)}
    assert variant(7) == {"dims": (512, 512, 1024, 2048, 4096, 4096), "strides": (1, 2, 2, 2, 1)}
    assert variant(9)["dims"] == (512, 512, 1024, 2048, 2048, 2048, 4096, 4096)
    assert variant(9)["strides"] == (1, 2, 2, 1, 1, 2, 1)
    assert variant(13, width=1.5)["dims"] == (768, 768, 1536, *[3072] * 7, 6144, 6144)


def _scale_and_shift(state: Mapping[str, Tensor], norm: str) -> tuple[Tensor, Tensor]:
    """γ / σ and β − μ·γ / σ of a norm in eval mode (VanillaNet eq. 2)."""
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPS).sqrt()
    return scale, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale


def _merged(
    state: Mapping[str, Tensor], first: str, first_norm: str, second: str, second_norm: str | None
) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the 1×1 conv `second` behind the conv `first`, each with its norm (VanillaNet eq. 2 to 4)."""
    w1, b1 = state[f"{first}.weight"], state[f"{first}.bias"]
    w2, b2 = state[f"{second}.weight"][:, :, 0, 0], state[f"{second}.bias"]
    s1, t1 = _scale_and_shift(state, first_norm)
    s2, t2 = _scale_and_shift(state, second_norm) if second_norm else (torch.ones_like(b2), torch.zeros_like(b2))
    weight = torch.einsum("o,om,m,mihw->oihw", s2, w2, s1, w1)
    bias = s2 * (w2 @ (s1 * b1 + t1) + b2) + t2
    return weight, bias


def _deploy_state(state: Mapping[str, Tensor], stages: int) -> dict[str, Tensor]:
    state = {key: tensor.double() for key, tensor in state.items()}
    fused: dict[str, Tensor] = {}

    def put_act(act: str, target: str) -> None:
        scale, shift = _scale_and_shift(state, f"{act}.bn")
        fused[f"{target}.weight"], fused[f"{target}.bias"] = state[f"{act}.weight"] * scale.view(-1, 1, 1, 1), shift

    fused["stem.0.weight"], fused["stem.0.bias"] = _merged(state, "stem1.0", "stem1.1", "stem2.0", "stem2.1")
    put_act("stem2.2", "stem.1")
    for i in range(stages):
        at = f"stages.{i}"
        merged = _merged(state, f"{at}.conv1.0", f"{at}.conv1.1", f"{at}.conv2.0", f"{at}.conv2.1")
        fused[f"{at}.conv.weight"], fused[f"{at}.conv.bias"] = merged
        put_act(f"{at}.act", f"{at}.act")
    fused["cls.2.weight"], fused["cls.2.bias"] = _merged(state, "cls1.2", "cls1.3", "cls2.0", None)
    return fused


@pytest.mark.parametrize(("height", "width"), [(32, 32), (45, 67)])
def test_deploy_form_computes_the_training_form_at_slope_1(
    height: int, width: int, drawn_state: Draw, run64: Run
) -> None:
    training, deploy = (create("vanillanet_digits", in_channels=3, deploy=deploy) for deploy in (False, True))
    state = drawn_state(training)
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    expected = run64(training, state, x)
    logits = run64(deploy, _deploy_state(state, stages=4), x)
    assert expected.shape == (2, 10)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_deploy_form_is_not_the_training_form_at_another_slope(drawn_state: Draw, run64: Run) -> None:
    """What goes wrong when a checkpoint from the middle of the schedule is merged anyway."""
    training, deploy = (create("vanillanet_digits", deploy=deploy) for deploy in (False, True))
    state = drawn_state(training)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    set_slope(training, 0.5)
    expected = run64(training, state, x)
    wrong = run64(deploy, _deploy_state(state, stages=4), x)
    assert (wrong - expected).abs().max() > 0.05 * expected.abs().max()


def test_slope_reaches_every_pair_of_convs() -> None:
    network = create("vanillanet_digits", slope=0.25)
    slopes = [m.slope for m in network.modules() if isinstance(m, FadingActivation)]
    assert slopes == [0.25] * 5  # four stages, and one module for stem and classifier
    deploy = create("vanillanet_digits", deploy=True)
    assert not any(isinstance(m, FadingActivation) for m in deploy.modules())


@pytest.mark.parametrize("deploy", [False, True])
def test_adaptive_pools_have_the_published_sizes(deploy: bool) -> None:
    with torch.device("meta"):
        network = create("vanillanet_13_x1_5_ada_pool", deploy=deploy)
        wide = create("vanillanet_13_x1_5_ada_pool", deploy=deploy, pool_sizes=[40, 20, 10])
    pools = [m.output_size for m in network.modules() if isinstance(m, nn.AdaptiveMaxPool2d)]
    assert pools == [38, 19, 10]
    assert [m.output_size for m in wide.modules() if isinstance(m, nn.AdaptiveMaxPool2d)] == [40, 20, 10]
    stem = network.get_submodule("stem.0" if deploy else "stem1.0")
    assert (stem.stride, stem.padding) == ((3, 3), (1, 1))


def test_series_order_is_read_off_the_kernels() -> None:
    for deploy in (False, True):
        state = create("vanillanet_digits", series_order=2, deploy=deploy).state_dict()
        assert options_from_state(state) == {"series_order": 2}
    assert options_from_state({}) == {}
    assert options_from_state({"stem2.2.weight": torch.zeros(4, 1, 6, 6)}) == {}
