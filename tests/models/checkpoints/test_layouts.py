"""Layouts of known trainers: each file that they write → the network has its weights, or one line names the choice."""

import itertools
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoint_layouts import LAYOUTS, OTHER, STATE, Net, at
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from plainconv.exporter.errors import CheckpointError
from plainconv.models.checkpoints.published import CheckpointInfo, load_into, read_checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    numbers = itertools.count()

    def save(content: Any, **options: Any) -> Path:
        path = tmp_path / f"some{next(numbers)}.pth"
        torch.save(content, path, **options)
        return path

    return save


def loaded(path: Path, network: nn.Module, *, ema: bool | None = None, **options: Any) -> CheckpointInfo:
    return load_into(network, read_checkpoint(path, **options), ema=ema)


def check_state(network: nn.Module, state: Mapping[str, Tensor] = STATE) -> None:
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[key]) or key.endswith("num_batches_tracked")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_loaded(name: str, zipped: bool, saved: Callable[..., Path]) -> None:
    network = Net()
    info = loaded(saved(LAYOUTS[name], _use_new_zipfile_serialization=zipped), network)
    check_state(network)
    assert all("\n" not in warning for warning in info.warnings)


EMA = [
    "torchvision reference with ema",
    "timm",
    "Lightning, EMA inside",
    "Lightning, EMA callback",
    "mmengine EMA",
    "AveragedModel beside",
    "BasicSR EMA",
]


@pytest.mark.parametrize("name", EMA)
def test_ema_takes_the_averaged_weights(name: str, saved: Callable[..., Path]) -> None:
    network = Net()
    info = loaded(saved(LAYOUTS[name]), network, ema=True)
    check_state(network, OTHER)
    assert info.ema
    plain = loaded(saved(LAYOUTS[name]), Net(), ema=False)
    assert (plain.others, info.others) == ((info.weights,), (plain.weights,))


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    safetensors.torch.save_file(at("model."), tmp_path / "model.safetensors", metadata={"format": "pt"})
    network = Net()
    assert loaded(tmp_path / "model.safetensors", network).weights == "model"
    check_state(network)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("AveragedModel", "n_averaged"),
        ("profiler's counts", "total_ops"),
        ("None and float entries", "scale, nothing, name"),
        ("criterion", "criterion.weight, loss_fn.pos_weight"),
        ("extra state", "backbone._extra_state"),
        ("Lightning, criterion beside", "state_dict.criterion.weight"),
        ("MoCo", "state_dict.queue, state_dict.queue_ptr"),
    ],
)
def test_what_is_left_out_is_named(name: str, left_out: str, saved: Callable[..., Path]) -> None:
    assert any(left_out in warning for warning in loaded(saved(LAYOUTS[name]), Net()).warnings)


def check_refusal(path: Path, *parts: str, network: nn.Module | None = None, **options: Any) -> None:
    with pytest.raises(CheckpointError) as raised:
        loaded(path, network or Net(), **options)
    assert str(raised.value).startswith(f"{path.name}: ")
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("content", "one", "other"),
    [
        ({"model": STATE, "best": OTHER}, "model", "best"),
        (
            {"student": at("backbone."), "teacher": at("backbone.module.", OTHER)},
            "student.backbone",
            "teacher.backbone",
        ),
        (
            {"state_dict": {**at("encoder_q."), **at("encoder_k.", OTHER)}},
            "state_dict.encoder_q",
            "state_dict.encoder_k",
        ),
        ({"models": [STATE, OTHER]}, "models.0", "models.1"),
        ({"ema": STATE, "model_ema": OTHER}, "ema", "model_ema"),
    ],
)
def test_two_readings_are_refused_by_name_and_key_chooses(
    content: Any, one: str, other: str, saved: Callable[..., Path]
) -> None:
    path = saved(content)
    check_refusal(path, f"{one} and {other} both fit and differ; say which: --key {one} or --key {other}")
    for key, state in ((one, STATE), (other, OTHER)):
        network = Net()
        assert loaded(path, network, key=key).weights == key
        check_state(network, state)


def test_the_same_weights_twice_are_one_reading(saved: Callable[..., Path]) -> None:
    network = Net()
    assert loaded(saved({"model": STATE, "best": {k: v.clone() for k, v in STATE.items()}}), network).weights == "model"
    check_state(network)


def test_key_may_be_a_prefix_of_keys_and_must_be_there(saved: Callable[..., Path]) -> None:
    path = saved({"state_dict": {**at("module.q."), **at("module.k.", OTHER)}})
    for key in ("q", "module.q", "state_dict.q", "state_dict.module.q"):
        network = Net()
        loaded(path, network, key=key)
        check_state(network)
    check_refusal(path, "--key teacher names no entry with weights, found state_dict", key="teacher")


def test_drop_leaves_out_what_the_network_has_not(saved: Callable[..., Path]) -> None:
    path = saved({"model": {**STATE, "aux.weight": torch.ones(2), "aux.bias": torch.ones(2)}})
    check_refusal(
        path, "2 keys unexpected (first: aux.weight, aux.bias)", "--drop PATTERN leaves out", "FILE.py:CALLABLE"
    )
    network = Net()
    loaded(path, network, drop=["aux.*"])
    check_state(network)
    check_refusal(path, "--drop axu.* fits no key, found model.backbone.stem.weight", drop=["axu.*"])
    check_refusal(path, "leaves nothing", drop=["*"])


def test_weights_of_another_network_are_refused(saved: Callable[..., Path]) -> None:
    check_refusal(saved({k: v for k, v in STATE.items() if k != "head.bias"}), "1 key missing (first: head.bias)")
    wide = {**STATE, "head.weight": torch.ones(3, 6)}
    check_refusal(saved({"net": wide}), "under net, 1 of another shape (first: head.weight is 3×6, wanted 2×6")
    check_refusal(saved({"net": {**STATE, "head.weight": torch.ones(1, 2, 6)}}), "head.weight is 1×2×6, wanted 2×6")
    check_refusal(saved({**at("a."), **{"b." + k: v for k, v in wide.items()}}), "a", network=nn.Linear(3, 3))


def test_network_wrapped_by_the_user_takes_a_file_of_the_one_inside(saved: Callable[..., Path]) -> None:
    wrapped = nn.ModuleDict({"net": Net()})
    loaded(saved({"model": at("module.")}), wrapped)
    check_state(wrapped["net"])
    check_refusal(saved({**at("a."), "b": torch.ones(1)}), "keys missing", network=nn.ModuleDict({"net": Net()}))


# ------------------------------------------------------------------ weight norm, spectral norm, tied weights


def normed(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), nn.ReLU(), wrap(nn.Conv2d(4, 2, 1)), nn.Linear(2, 2))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("old", ["weight", "spectral"])
def test_old_norms_of_weights_go_into_parametrizations_and_back(old: str, saved: Callable[..., Path]) -> None:
    before, after = (
        (nn.utils.weight_norm, parametrizations.weight_norm)
        if old == "weight"
        else (nn.utils.spectral_norm, parametrizations.spectral_norm)
    )
    x = torch.randn(2, 3, 9, 9)
    for source, target in ((normed(before), normed(after)), (normed(after), normed(before))):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        loaded(saved({"model": at("module.", source.state_dict())}), target)
        y, wanted = (network.eval()[:3](x) for network in (target, source))
        assert torch.allclose(y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_weight_norm_is_fused_for_a_network_without(wrap: Any, saved: Callable[..., Path]) -> None:
    source, plain = normed(wrap), normed(lambda conv: conv)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1.7)
    source[:3](torch.ones(1, 3, 9, 9))
    loaded(saved(source.state_dict()), plain)
    for index in (0, 2):
        assert torch.allclose(plain[index].weight, source[index].weight, rtol=1e-6)


@pytest.mark.parametrize("old", [True, False])
def test_spectral_norm_is_fused_for_a_network_without(old: bool, saved: Callable[..., Path]) -> None:
    source, plain = normed(parametrizations.spectral_norm), normed(lambda conv: conv)
    source[:3](torch.ones(2, 3, 9, 9))  # its singular vectors take a step
    source.eval()
    state = source.state_dict()
    if old:
        names = {"original": "weight_orig", "0._u": "weight_u", "0._v": "weight_v"}
        state = {
            stem + names[last] if begins else key: tensor
            for key, tensor in state.items()
            for stem, begins, last in [key.partition("parametrizations.weight.")]
        }
    loaded(saved(state), plain)
    for index in (0, 2):
        assert torch.allclose(plain[index].weight, source[index].weight, rtol=1e-5)


def test_pruned_weights_are_fused_for_a_network_without(saved: Callable[..., Path]) -> None:
    source, plain = normed(lambda conv: prune.random_unstructured(conv, "weight", 0.5)), normed(lambda conv: conv)
    loaded(saved(source.state_dict()), plain)
    for index in (0, 2):
        assert torch.equal(plain[index].weight, source[index].weight)
        assert (plain[index].weight == 0).any()


def test_one_name_of_a_tied_weight_is_enough(saved: Callable[..., Path]) -> None:
    def tied() -> nn.Module:
        network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        network[1].weight = network[0].weight
        return network

    for absent in ("0.weight", "1.weight"):
        state = {key: torch.randn(3, 3)[0] if "bias" in key else torch.randn(3, 3) for key in tied().state_dict()}
        del state[absent]
        network = tied()
        loaded(saved(state), network)
        assert torch.equal(network[1].weight, state["1.weight" if absent == "0.weight" else "0.weight"])


# ------------------------------------------------------------------ types of frameworks that are not installed


def test_mmengines_history_is_read_without_mmengine(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self.values, self.statistics = np.arange(3.0), {"mean": HistoryBuffer.mean}

        def mean(self) -> float:
            raise AssertionError("run")

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = saved({"state_dict": STATE, "message_hub": {"log_scalars": {"loss": HistoryBuffer()}}})
    monkeypatch.undo()
    network = Net()
    loaded(path, network)
    check_state(network)
