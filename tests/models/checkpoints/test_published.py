"""Published checkpoints into networks: layout, slope, and what does not fit."""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.errors import CheckpointError, SourceError
from plainconv.models import create
from plainconv.models.checkpoints.published import load_checkpoint, load_into, read_checkpoint
from plainconv.models.deep_training import FadingActivation, SavedFadingActivation

Draw = Callable[[nn.Module], dict[str, Tensor]]
NAME = "vanillanet_digits"


def slopes_of(network: nn.Module) -> set[float]:
    return {module.slope for module in network.modules() if isinstance(module, FadingActivation)}


def check_refusal(name: str, path: Path, *parts: str, **options: Any) -> None:
    """Given a checkpoint that does not fit → one line that names the file and holds every part."""
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(name, path, **options)
    message = str(raised.value)
    assert message.startswith(f"{path.name}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    numbers = itertools.count()

    def save(content: Any) -> Path:
        path = tmp_path / f"checkpoint{next(numbers)}.pth"
        torch.save(content, path)
        return path

    return save


@pytest.fixture
def state(drawn_state: Draw) -> dict[str, Tensor]:
    return drawn_state(create(NAME))


@pytest.mark.parametrize("name", ["vanillanet_digits", "parnet_digits"])
@pytest.mark.parametrize("layout", ["training", "deploy"])
@pytest.mark.parametrize("asked", ["auto", "the same"])
def test_both_layouts_load_and_are_told_by_their_keys(
    name: str, layout: str, asked: str, saved: Callable[[Any], Path], drawn_state: Draw
) -> None:
    state = drawn_state(create(name, deploy=layout == "deploy"))
    path = saved({"model": state})
    loaded = load_checkpoint(name, path, layout=layout if asked == "the same" else "auto")
    assert loaded.info.layout == layout
    assert (loaded.info.weights, loaded.info.ema, loaded.info.path) == ("model", False, path)
    assert not any(module.training for module in loaded.module.modules())
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.module.state_dict().items())


def test_loaded_network_computes_and_trains_on(saved: Callable[[Any], Path], state: dict[str, Tensor]) -> None:
    """Built on the meta device, filled from a mapped file: nothing of either shows."""
    module = load_checkpoint(NAME, saved({"model": state})).module
    reference = create(NAME).eval()
    reference.load_state_dict(state)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module(x), reference(x))
    module.train()(x).sum().backward()
    assert all(parameter.grad is not None and parameter.is_contiguous() for parameter in module.parameters())


def test_counters_may_be_missing_and_half_precision_widens(
    saved: Callable[[Any], Path], state: dict[str, Tensor]
) -> None:
    halves = {key: tensor.half() for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    loaded = load_checkpoint(NAME, saved(halves)).module.state_dict()
    assert loaded["stem1.1.num_batches_tracked"].item() == 0
    assert loaded["stem1.0.weight"].dtype == torch.float32
    assert torch.equal(loaded["stem1.0.weight"], halves["stem1.0.weight"].float())


@pytest.mark.parametrize("order", [1, 2])
def test_order_of_the_series_is_read_off_the_kernels(
    order: int, saved: Callable[[Any], Path], drawn_state: Draw
) -> None:
    state = drawn_state(create(NAME, series_order=order))
    loaded = load_checkpoint(NAME, saved(state)).module.state_dict()
    assert loaded["stem2.2.weight"].shape[-1] == 2 * order + 1
    check_refusal(NAME, saved(state), "of another shape", options={"series_order": 3})


@pytest.mark.parametrize(
    ("epoch", "linear", "slope"), [(0, True, 0.0), (50, True, 0.5), (25, False, 0.14644660940672627)]
)
def test_slope_of_an_unfinished_training_is_set_and_warned_of(
    epoch: int, linear: bool, slope: float, saved: Callable[[Any], Path], state: dict[str, Tensor]
) -> None:
    args = argparse.Namespace(decay_epochs=100, decay_linear=linear)
    path = saved({"model": state, "epoch": epoch, "args": args})
    loaded = load_checkpoint(NAME, path)
    assert loaded.info.slope == pytest.approx(slope, abs=1e-15)
    assert slopes_of(loaded.module) == {loaded.info.slope}
    (warning,) = loaded.info.warnings
    schedule = "linear" if linear else "cosine"
    for part in (path.name, f"has slope {slope:g} (saved at epoch {epoch} of 100, {schedule} schedule)", "--slope"):
        assert part in warning


@pytest.mark.parametrize("epoch", [100, 299])
@pytest.mark.parametrize("ema", [False, True])
def test_slope_of_a_finished_training_is_one(
    epoch: int, ema: bool, saved: Callable[[Any], Path], state: dict[str, Tensor]
) -> None:
    content = {"model": state, "model_ema": state, "epoch": epoch, "args": argparse.Namespace(decay_epochs=100)}
    loaded = load_checkpoint(NAME, saved(content), ema=ema)
    assert (loaded.info.slope, loaded.info.warnings, loaded.info.epoch) == (1.0, (), epoch)
    used, other = ("model_ema", "model") if ema else ("model", "model_ema")
    assert (loaded.info.weights, loaded.info.others) == (used, (other,))
    assert slopes_of(loaded.module) == {1.0}


@pytest.mark.parametrize("beside", [{}, {"epoch": 50}, {"args": argparse.Namespace(decay_epochs=100)}])
def test_slope_that_the_file_does_not_tell_is_not_taken_in_silence(
    beside: dict[str, Any], saved: Callable[[Any], Path], state: dict[str, Tensor]
) -> None:
    path = saved({"model": state, **beside})
    info = load_checkpoint(NAME, path).info
    assert info.slope == 1.0
    assert len(info.warnings) == 1
    assert "does not tell how far" in info.warnings[0]
    assert "--slope" in info.warnings[0]
    assert load_checkpoint(NAME, path, slope=1.0).info.warnings == ()


def test_slope_given_overrides_the_files(saved: Callable[[Any], Path], state: dict[str, Tensor]) -> None:
    path = saved({"model": state, "epoch": 50, "args": argparse.Namespace(decay_epochs=100)})
    loaded = load_checkpoint(NAME, path, slope=1.0)
    assert slopes_of(loaded.module) == {1.0}
    assert "slope 1 overrides 0.5, which epoch 50 of 100" in loaded.info.warnings[0]
    as_option = load_checkpoint(NAME, path, options={"slope": 0.25})
    assert slopes_of(as_option.module) == {0.25}
    assert [("overrides" in warning) for warning in as_option.info.warnings] == [True, False]


@pytest.mark.parametrize("prefix", ["module.", "model.", "net._orig_mod.", "backbone.module."])
def test_prefix_entries_and_counters_of_a_trainer(
    prefix: str, saved: Callable[[Any], Path], state: dict[str, Tensor]
) -> None:
    beside = {"criterion.weight": torch.ones(2), f"{prefix}total_ops": torch.zeros(1)}
    path = saved({"model_state_dict": {**{prefix + key: t for key, t in state.items()}, **beside}, "args": None})
    loaded = load_checkpoint(NAME, path, slope=1.0)
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.module.state_dict().items())
    assert "criterion.weight" in " ".join(loaded.info.warnings)


def test_two_readings_need_a_key(saved: Callable[[Any], Path], state: dict[str, Tensor]) -> None:
    other = {key: tensor + 1 for key, tensor in state.items()}
    path = saved({"model": state, "best": {**other, "aux.weight": torch.ones(1)}})
    assert load_checkpoint(NAME, path).info.weights == "model"  # the other one has a key too many
    check_refusal(NAME, path, "model and best both fit and differ", drop=["aux.*"])
    loaded = load_checkpoint(NAME, path, key="best", drop=["aux.*"])
    assert torch.equal(loaded.module.state_dict()["stem1.0.weight"], other["stem1.0.weight"])


def test_slope_where_there_is_none_to_set_is_refused(saved: Callable[[Any], Path], drawn_state: Draw) -> None:
    deploy = saved(drawn_state(create(NAME, deploy=True)))
    check_refusal(NAME, deploy, "slope 0.5 given, but this network has no fading activation", slope=0.5)
    check_refusal("parnet_digits", saved(drawn_state(create("parnet_digits"))), "leave it out", slope=0.5)
    check_refusal(NAME, saved(drawn_state(create(NAME))), "slope is 1.5; wanted a number from 0", slope=1.5)
    assert load_checkpoint(NAME, deploy).info.slope is None


def test_wrong_family_names_counts_keys_and_the_family_that_fits(
    saved: Callable[[Any], Path], drawn_state: Draw
) -> None:
    path = saved(drawn_state(create("parnet_digits")))
    check_refusal(
        NAME,
        path,
        "93 keys missing (first: stem1.0.weight, stem1.0.bias, stem1.1.weight)",
        " keys unexpected (first: inits.0.0.block",
        "it fits parnet_digits, training layout",
    )


def test_wrong_width_names_the_shape_and_the_network_that_fits(saved: Callable[[Any], Path]) -> None:
    state = {key: torch.zeros(()).expand(t.shape) for key, t in _shapes("parnet_s_96").items()}
    check_refusal(
        "parnet_s",
        saved(state),
        "of another shape (first: inits.0.1.block.rbr_dense.conv.weight is 96×64×3×3, wanted 92×64×3×3)",
        "it fits parnet_s_96, training layout; give that name",
    )


def _shapes(name: str, **options: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        return create(name, **options).state_dict()


@pytest.mark.parametrize("name", ["vanillanet_digits", "parnet_digits"])
@pytest.mark.parametrize("deploy", [False, True])
def test_wrong_number_of_classes_gives_the_option(
    name: str, deploy: bool, saved: Callable[[Any], Path], drawn_state: Draw
) -> None:
    path = saved(drawn_state(create(name, deploy=deploy, num_classes=7)))
    check_refusal(name, path, "its classifier has 7 classes, wanted 10; give --set num_classes=7")
    load_checkpoint(name, path, options={"num_classes": 7})


def test_layout_that_was_not_asked_for(saved: Callable[[Any], Path], drawn_state: Draw) -> None:
    path = saved(drawn_state(create(NAME, deploy=True)))
    check_refusal(NAME, path, "has the deploy layout", "wanted the training layout", layout="training")


def test_incomplete_and_foreign_state_dicts(saved: Callable[[Any], Path], state: dict[str, Tensor]) -> None:
    part = {key: tensor for key, tensor in state.items() if not key.startswith("stages.1")}
    check_refusal(NAME, saved(part), "17 keys missing (first: stages.1.conv1.0.weight", "82% of it fits")
    check_refusal(NAME, saved({"weight": torch.ones(1)}), "no network of the catalogue is near it")


def test_network_the_file_was_trained_as_is_compared_by_name(
    saved: Callable[[Any], Path], state: dict[str, Tensor]
) -> None:
    """The † variant has the keys and shapes of the plain one: only `args` can tell them apart."""
    args = argparse.Namespace(decay_epochs=1, model="vanillanet_13_x1_5_ada_pool")
    warnings = load_checkpoint(NAME, saved({"model": state, "epoch": 9, "args": args})).info.warnings
    assert len(warnings) == 1
    assert "says it was trained as vanillanet_13_x1_5_ada_pool, loaded as vanillanet_digits" in warnings[0]
    args.model = NAME
    assert load_checkpoint(NAME, saved({"model": state, "epoch": 9, "args": args})).info.warnings == ()


def test_wrong_option_is_told_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="num_clases is unknown"):
        load_checkpoint(NAME, tmp_path / "absent.pth", options={"num_clases": 3})


class Users(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 1)
        self.norm = nn.BatchNorm2d(width)


def test_load_into_a_users_own_network(saved: Callable[[Any], Path], drawn_state: Draw) -> None:
    state, network = drawn_state(Users()), Users()
    weight = network.conv.weight
    load_into(network, read_checkpoint(saved({"state_dict": state})))
    assert network.conv.weight is weight  # written to in place: whoever holds the parameter sees it
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


def test_load_into_a_wrapped_network(saved: Callable[[Any], Path], drawn_state: Draw) -> None:
    wrapped = nn.Sequential()
    wrapped.add_module("module", Users())
    state = drawn_state(wrapped)
    load_into(wrapped, read_checkpoint(saved(state)))
    assert all(torch.equal(tensor, state[key]) for key, tensor in wrapped.state_dict().items())


def test_load_into_keeps_the_networks_type(saved: Callable[[Any], Path], drawn_state: Draw) -> None:
    network = Users().double()
    load_into(network, read_checkpoint(saved(drawn_state(Users()))))
    assert network.conv.weight.dtype == torch.float64


def test_load_into_a_network_of_another_shape(saved: Callable[[Any], Path], drawn_state: Draw) -> None:
    checkpoint = read_checkpoint(saved(drawn_state(Users(4))))
    before = Users(3)
    untouched = {key: tensor.clone() for key, tensor in before.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"6 of another shape \(first: conv.weight is 4×1×1×1, wanted 3×1×1×1\)"):
        load_into(before, checkpoint)
    assert all(torch.equal(tensor, untouched[key]) for key, tensor in before.state_dict().items())


@pytest.mark.parametrize("name", ["vanillanet_digits", "parnet_digits"])
def test_shipped_checkpoints_are_finished_and_say_so(name: str, assets: Path) -> None:
    info = load_checkpoint(name, assets / f"{name}.pth").info
    assert info.warnings == ()
    assert info.layout == "training"
    assert info.slope == (1.0 if name == "vanillanet_digits" else None)


@pytest.mark.parametrize("slopes", [(0.4, 0.4), (1.0, 0.25), (1.0, 1.0)])
def test_a_slope_in_the_state_dict_stays_what_it_is(saved: Callable[[Any], Path], slopes: tuple[float, ...]) -> None:
    """Several differ where their owner changed them one by one: the least is told, none is changed."""
    network = create("resnet_digits")
    fades = [module for module in network.modules() if isinstance(module, SavedFadingActivation)]
    for i, fade in enumerate(fades):
        fade.slope = slopes[min(i, 1)]
    path = saved({"model": network.state_dict(), "epoch": 3})
    loaded = load_checkpoint("resnet_digits", path)
    found = [module.slope for module in loaded.module.modules() if isinstance(module, SavedFadingActivation)]
    assert found == [fade.slope for fade in fades]
    assert loaded.info.slope == min(slopes)
    told = [f"has slope {min(slopes):g} (saved in its state dict)" in warning for warning in loaded.info.warnings]
    assert told == [True] * (min(slopes) < 1)
    asked = load_checkpoint("resnet_digits", path, slope=1.0)
    assert {module.slope for module in asked.module.modules() if isinstance(module, SavedFadingActivation)} == {1.0}
    assert any("slope 1 overrides" in warning for warning in asked.info.warnings) == (min(slopes) < 1)
