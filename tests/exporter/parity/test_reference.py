import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.parity import Reference, reference_from_module, run_module
from plainconv.exporter.parity.batches import in_batches
from plainconv.exporter.parity.measure import MULTIPLE, UNIT_ROUNDOFF

U = UNIT_ROUNDOFF["float32"]

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


class Shifted(nn.Module):
    """A network whose outputs are moved by a function of the input and the output."""

    def __init__(self, inner: nn.Module, shift: object) -> None:
        super().__init__()
        self.inner, self.shift = inner, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.shift(x, self.inner(x))  # type: ignore[operator]


def test_the_network_itself_holds_with_the_error_that_eager_float32_has() -> None:
    net = network()
    reference = reference_from_module(net, EXAMPLE)
    (parity,) = reference.judge("eager", run_module(net))
    assert parity
    assert parity.own_error == reference.outputs["logits"].own_errors.max() > 0
    assert parity.error <= parity.own_error
    assert parity.top1 == 1.0
    assert "held" in str(parity)


@pytest.mark.parametrize("together", [False, True])
def test_own_errors_are_those_of_one_image_at_a_time_and_of_several(together: bool) -> None:
    """Given a network that rounds worse when it is given one image, or several → that is its own error either way."""

    def rounded(x: Tensor, y: Tensor) -> Tensor:
        return y + (1e-4 if y.dtype == torch.float32 and (len(x) > 1) == together else 0.0)

    plain, worse = network(), Shifted(network(), rounded)
    own = [reference_from_module(net, EXAMPLE).outputs["logits"] for net in (plain, worse)]
    assert (own[1].own_errors > 2 * own[0].own_errors.max()).all()
    assert own[1].own_errors == pytest.approx(1e-4 / own[1].scales, rel=0.05)


def test_the_tolerance_is_a_multiple_of_eagers_own_error_and_never_below_that_of_rounding() -> None:
    reference = reference_from_module(network(), EXAMPLE)
    own = reference.outputs["logits"].own_errors
    assert (reference.tolerances("logits") >= MULTIPLE * own).all()

    exact = reference_from_module(nn.Flatten(), EXAMPLE)  # eager float32 is exact here
    wanted = exact.outputs["logits"]
    rounding = (np.abs(wanted.values).max(axis=1) / wanted.scales[:, 0]).max()
    assert not wanted.own_errors.any()
    assert 1 <= exact.tolerances("logits")[0] / (MULTIPLE * U * rounding) < 5  # of a normal number's largest draw


def test_one_chaotic_image_leaves_the_others_their_tolerance() -> None:
    """Given an own error of 3e-5 on all images but one, of 0.15 there → that one alone is allowed more; certified."""
    net = network()
    reference = reference_from_module(net, EXAMPLE)
    wanted = reference.outputs["logits"]
    own = np.full_like(wanted.own_errors, 3e-5)
    own[4, 2] = 0.15  # one part of it: any other may be
    wild = dataclasses.replace(reference, outputs={"logits": dataclasses.replace(wanted, own_errors=own)})
    allowed = wild.tolerances("logits")
    assert allowed[4] == pytest.approx(MULTIPLE * 0.15)
    assert allowed[[0, 1, 2]] == pytest.approx(MULTIPLE * 3e-5)
    assert wild.judge("eager", run_module(net))[0]
    wrong = [wanted.values.copy()]
    wrong[0][5] += 1e-3 * wanted.spread
    assert not wild.compare("step", wrong)[0]


def test_the_error_of_the_runtimes_that_count_is_the_networks_own() -> None:
    net = network()
    reference = reference_from_module(net, EXAMPLE)
    coarse = in_batches(run_module(net), reference.arrays, 1)[0].astype(np.float16)

    def run(x: np.ndarray) -> list[np.ndarray]:
        return [run_module(net)(x)[0].astype(np.float16)]

    (alone,) = reference.compare("step", [coarse])
    (counted,) = reference_from_module(net, EXAMPLE, own_runs=[run]).compare("step", [coarse])
    assert alone.status == "failed"
    assert counted.error <= counted.tolerance and counted.own_error > 100 * alone.own_error


@pytest.mark.parametrize("kind", ["normal", "zeros", "large", "hot"])
def test_a_wrong_output_on_one_kind_of_input_alone_fails_and_is_named(kind: str) -> None:
    net = network()
    reference = reference_from_module(net, EXAMPLE)
    image = reference.kinds.index(kind)
    wrong = [y.astype(np.float32) for y in in_batches(run_module(net), reference.arrays, 1)]
    wrong[0][image, 3] += 1e-3 * reference.outputs["logits"].scales[image, 3]

    (parity,) = reference.compare("step", wrong)

    assert not parity
    assert parity.status == "failed"
    assert parity.worst == (image, 3)
    assert parity.worst_input == kind
    assert parity.error == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_output_that_is_not_finite_never_holds(value: float) -> None:
    reference = reference_from_module(network(), EXAMPLE)
    outputs = [reference.outputs["logits"].values.copy()]
    outputs[0][1, 2] = value
    (parity,) = reference.compare("step", outputs)
    assert not parity
    assert parity.worst == (1, 2)


def test_an_output_of_another_shape_or_number_fails() -> None:
    reference = reference_from_module(network(), EXAMPLE)
    (shape,) = reference.compare("step", [reference.outputs["logits"].values[:, :4]])
    (number,) = reference.compare("step", [])
    assert not shape
    assert "want [5]" in shape.status
    assert not number
    assert "0 outputs, want 1" in number.status


def test_an_output_that_does_not_depend_on_the_input_is_not_certified() -> None:
    constant = Shifted(network(), lambda _x, y: y * 0 + 3)
    reference = reference_from_module(constant, EXAMPLE)
    (parity,) = reference.judge("eager", run_module(constant))
    assert not parity
    assert parity.status.startswith("not certified: the output does not depend on the input")


def test_an_output_whose_spread_drowns_in_rounding_is_not_certified() -> None:
    drowned = Shifted(network(), lambda _x, y: (y * 1e-6 + 3) - 3)
    reference = reference_from_module(drowned, EXAMPLE)
    (parity,) = reference.judge("eager", run_module(drowned))
    assert not parity
    assert parity.status.startswith("not certified: eager float32 itself")


def test_an_output_nearly_independent_of_the_input_fails_where_an_absolute_tolerance_would_pass() -> None:
    net = Shifted(network(), lambda _x, y: y * 1e-5)
    reference = reference_from_module(net, EXAMPLE)
    swapped = [np.roll(reference.outputs["logits"].values, 1, axis=0)]
    assert np.abs(swapped[0] - reference.outputs["logits"].values)[reference.kinds.index("zeros")].max() < 1e-4
    assert not reference.compare("step", swapped)[0]


def test_a_lower_precision_is_held_to_the_tolerance_given() -> None:
    net = network()
    reference = reference_from_module(net, EXAMPLE)
    half = [y.astype(np.float16) for y in in_batches(run_module(net), reference.arrays, 1)]
    assert not reference.compare("fp16", half)[0]
    assert reference.compare("fp16", half, tolerance=5e-3)[0]


@pytest.mark.parametrize(("swapped", "held"), [(1, True), (2, False)])
def test_a_lower_precision_must_agree_on_the_users_images(swapped: int, held: bool) -> None:
    """Given 30 images and outputs within the tolerance, the two largest swapped on some -> at most 5 % may be so."""
    data = np.random.default_rng(0).standard_normal((30, *EXAMPLE.shape[1:]), np.float32)
    reference = reference_from_module(network(), EXAMPLE, data=data, max_data=30).of_kinds(("data",))
    y = reference.outputs["logits"].values.copy()
    for scores in y[:swapped]:
        second, first = np.argsort(scores)[-2:]
        scores[[first, second]] = scores[[second, first]]
    (parity,) = reference.compare("int8", [y], tolerance=100.0)
    assert parity.error <= 100.0 and parity.top1 == (30 - swapped) / 30
    assert (parity.status == "held") is held
    if not held:
        assert "failed: the largest score agrees on 93.3% of the images, wanted 95%" in parity.status


def test_inputs_are_the_same_each_time_and_fewer_for_an_expensive_network() -> None:
    first, second = (reference_from_module(network(), EXAMPLE, macs=1e5) for _ in range(2))
    dear = reference_from_module(network(), EXAMPLE, macs=1e12)
    assert all(np.array_equal(a, b) for a, b in zip(first.arrays, second.arrays, strict=True))
    assert first.kinds.count("normal") > dear.kinds.count("normal") == 2
    assert set(first.kinds) == {"normal", "zeros", "large", "hot"} and set(dear.kinds) == {"normal", "hot"}


def test_the_users_own_images_count_and_set_the_spread() -> None:
    data = np.random.default_rng(1).uniform(0, 1, (4, 3, 8, 8)).astype(np.float32)
    reference = reference_from_module(network(), EXAMPLE, data=data)
    shown = [x for x, kind in zip(reference.arrays[0], reference.kinds, strict=True) if kind == "data"]
    assert np.array_equal(np.stack(shown), data)
    wanted = reference.outputs["logits"]
    own = wanted.values[[kind == "data" for kind in reference.kinds]]
    assert wanted.spread == pytest.approx(math.sqrt(own.var(axis=0, ddof=1).mean()))


def test_several_inputs_and_outputs_are_judged_one_by_one() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"sum": (x * scale).sum((2, 3)), "map": x + scale}

    reference = reference_from_module(Two().eval(), (EXAMPLE, torch.zeros(1, 3, 1, 1)), output_names=("sum", "map"))
    first, second = reference.judge("eager", run_module(Two()))
    assert first
    assert second
    assert (first.output, second.output) == ("sum", "map")
    assert first.top1 == 1.0
    assert second.top1 == 1.0


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_network_made_for_one_batch_size_is_run_with_it(batch: int) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(batch, 3 * 8 * 8) * 2

    reference = reference_from_module(Fixed().eval(), torch.zeros(batch, 3, 8, 8))
    values = reference.outputs["logits"].values
    assert values.shape == (len(reference.kinds), 192)
    assert np.allclose(values, reference.arrays[0].reshape(-1, 192) * 2.0)
    assert reference.judge("eager", run_module(Fixed()))[0]


def test_a_saved_reference_judges_as_before(tmp_path: Path) -> None:
    net = network()
    reference = reference_from_module(net, EXAMPLE)
    reference.save(tmp_path / "reference.npz")
    loaded = Reference.load(tmp_path / "reference.npz")
    assert loaded.judge("eager", run_module(net)) == reference.judge("eager", run_module(net))


@pytest.mark.parametrize(("kind", "allowed"), [("zeros", True), ("hot", True), ("normal", False), ("large", False)])
def test_the_bias_of_a_long_sum_is_allowed_only_where_its_terms_are_equal(kind: str, allowed: bool) -> None:
    """Given an output off by half of what adding n equal terms in sequence may cost → held on the flat images alone."""
    net = network()
    terms = 3000
    reference = reference_from_module(net, EXAMPLE, longest_sum=terms)
    at = reference.kinds.index(kind)
    outputs = [y.values.copy() for y in reference.outputs.values()]
    outputs[0][at] += 0.5 * terms * U * np.abs(outputs[0]).max(axis=0)
    assert bool(reference.compare("step", outputs)[0]) is allowed


@pytest.mark.parametrize(("kind", "held"), [("zeros", True), ("hot", True), ("normal", False), ("large", False)])
def test_the_bias_of_long_sums_is_allowed_on_flat_images_alone(kind: str, held: bool) -> None:
    net, terms = network(), 100_000
    reference = reference_from_module(net, EXAMPLE, longest_sum=terms)
    image = reference.kinds.index(kind)
    biased = [y.values.copy() for y in reference.outputs.values()]
    biased[0][image] *= 1 + 0.5 * terms * U
    (parity,) = reference.compare("step", biased)
    assert bool(parity) == held
    assert not reference_from_module(net, EXAMPLE).compare("step", biased)[0]


def test_part_of_a_reference_is_held_to_the_same_spread() -> None:
    """Given some kinds of image, or the first few → those rows of inputs, outputs and scales; the same spreads."""
    net = network()
    reference = reference_from_module(net, EXAMPLE)
    rows = [i for i, kind in enumerate(reference.kinds) if kind in ("hot", "zeros")]
    edges, few = reference.of_kinds(("hot", "zeros")), reference.first(2)
    whole = reference.outputs["logits"]
    for part, taken in ((edges, rows), (few, [0, 1])):
        assert part.kinds == tuple(reference.kinds[i] for i in taken)
        assert np.array_equal(part.arrays[0], reference.arrays[0][taken])
        for field in ("values", "scales", "own_errors"):
            assert np.array_equal(getattr(part.outputs["logits"], field), getattr(whole, field)[taken])
        assert part.outputs["logits"].spread == whole.spread
        assert part.judge("eager", run_module(net))[0]
    wrong = [edges.outputs["logits"].values.copy()]
    wrong[0][-1] += 0.1 * whole.spread
    assert not edges.compare("step", wrong)[0]
    assert edges.compare("step", wrong)[0].worst_input == edges.kinds[-1]


def test_part_that_cannot_be_taken_is_the_whole() -> None:
    """Given a kind that no image is of, more images than there are, or outputs that mix the images → all of them."""
    reference = reference_from_module(network(), EXAMPLE)
    assert reference.of_kinds(("data",)) is reference
    assert reference.first(100).kinds == reference.kinds
    mixed = Shifted(network(), lambda x, y: y.sum())
    scalar = reference_from_module(mixed, torch.zeros(2, 3, 8, 8))
    assert scalar.first(1) is scalar


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_network_is_certified_and_half_of_its_output_is_not(dtype: torch.dtype) -> None:
    """Given a network in half precision → held by its own error from float64; a wrong bias of 5 % is refused."""
    net = network().to(dtype)
    reference = reference_from_module(net, EXAMPLE)
    (parity,) = reference.judge("step", run_module(net))
    assert parity and parity.measure == "rms" and reference.dtype == str(dtype).removeprefix("torch.")
    (same,) = reference.judge("step", run_module(network().to(dtype).float()))  # other roundings of the same weights
    assert same
    with torch.no_grad():
        net[-1].bias[2] += 0.5 * reference.outputs["logits"].spread
    assert reference.judge("step", run_module(net))[0].failed


def over_batch(x: Tensor, y: Tensor) -> Tensor:
    return y / (1 + x.flatten(1).std(0, unbiased=False).mean())


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_whose_images_influence_one_another_is_run_by_the_batch(batch: int) -> None:
    """Given a statistic over the batch → the reference is what the batch given makes of it, and says so."""
    net = Shifted(network(), over_batch)
    reference = reference_from_module(net, torch.zeros(batch, 3, 8, 8))
    assert reference.mixes
    assert reference.judge("eager", run_module(net))[0]
    alone = net(torch.from_numpy(reference.arrays[0][:batch])).detach().numpy()
    assert reference.outputs["logits"].values[:batch] == pytest.approx(alone, rel=1e-5)
    assert not reference_from_module(network(), torch.zeros(batch, 3, 8, 8)).mixes


@pytest.mark.parametrize("by", [1.0, 1e-3])
def test_a_costly_network_is_evaluated_an_image_at_a_time_and_asked_once_whether_its_images_mix(by: float) -> None:
    """Given images that influence one another → float32 together differs from alone; float64 settles it."""
    seen: list[tuple[int, torch.dtype]] = []

    def noted(x: Tensor, y: Tensor) -> Tensor:
        seen.append((len(x), x.dtype))
        return y

    def over_some(x: Tensor, y: Tensor) -> Tensor:
        return y + by * (over_batch(x, y) - y)

    found = reference_from_module(Shifted(network(), noted), torch.zeros(1, 3, 8, 8), macs=1e9 + 1)
    assert not found.mixes and {n for n, dtype in seen if dtype == torch.float64} == {1}
    assert max(n for n, dtype in seen if dtype == torch.float32) > 1
    net = Shifted(network(), over_some)
    found = reference_from_module(net, torch.zeros(1, 3, 8, 8), macs=1e9 + 1)
    assert found.mixes
    alone = net(torch.from_numpy(found.arrays[0][:1])).detach().numpy()
    assert found.outputs["logits"].values[:1] == pytest.approx(alone, rel=1e-5)


def test_an_edge_that_the_network_itself_makes_no_number_of_is_left_out_and_said() -> None:
    """Given x / ‖x‖ → all images but that of zeros; NaN on a random one is not certified."""
    unit = Shifted(network(), lambda x, y: y / x.flatten(1).norm(dim=1, keepdim=True))
    reference = reference_from_module(unit, EXAMPLE)
    assert "zeros" not in reference.kinds and "hot" in reference.kinds
    assert [line.partition(" is left out")[0] for line in reference.left_out] == ["the image of zeros"]
    assert reference.judge("eager", run_module(unit))[0]

    root = Shifted(network(), lambda x, y: y * x.mean(dim=(1, 2, 3))[:, None].sqrt())
    (parity,) = reference_from_module(root, EXAMPLE).judge("eager", run_module(root))
    assert parity.status.startswith("not certified: the reference is not finite")


def test_a_constant_beside_an_output_that_moves_is_held_to_its_value() -> None:
    class Anchored(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x.mean((2, 3)), torch.arange(4.0).expand(len(x), 4) + 7, (x > 1e9).float()

    reference = reference_from_module(Anchored(), EXAMPLE, output_names=("scores", "anchors", "nothing"))
    exact = reference.run(run_module(Anchored()))
    assert all(reference.compare("step", exact))
    assert reference.compare("step", [exact[0], exact[1] + 0.01, exact[2]])[1].failed
    assert reference.compare("step", [*exact[:2], exact[2] + np.eye(8, dtype=np.float32)])[2].failed


def test_integers_are_judged_by_agreement() -> None:
    class Classes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(dim=1)

    reference = reference_from_module(Classes(), EXAMPLE)
    (held,) = reference.judge("eager", run_module(Classes()))
    assert held and held.measure == "agreement" and held.error == 0
    assert reference.compare("step", [reference.outputs["logits"].values.astype(np.float32)])[0].failed
    off = reference.outputs["logits"].values.copy()
    off[2, :2] += 1
    (failed,) = reference.compare("step", [off])
    assert failed.failed and failed.worst == (2, 0, 0) and failed.error == pytest.approx(16 / off.size)
    assert reference.compare("int8", [off], tolerance=0.3)[0]


def test_inputs_by_name_of_any_type_and_without_a_batch_axis() -> None:
    class Many(nn.Module):
        def forward(self, image: Tensor, words: Tensor, size: Tensor) -> dict[str, Tensor]:
            return {"a": image.mean((2, 3)) * size.prod(), "b": words.float().sum(1, keepdim=True) + image.sum((2, 3))}

    examples = {
        "image": EXAMPLE.repeat(2, 1, 1, 1),
        "words": torch.zeros(2, 5, dtype=torch.int64),
        "size": torch.ones(3),
    }
    reference = reference_from_module(Many(), examples, output_names=("a", "b"))
    assert list(reference.inputs) == ["image", "words", "size"] and reference.whole == {"size"}
    assert all(reference.judge("eager", run_module(Many())))


def test_a_network_that_is_chaotic_here_and_there_is_held_to_its_rms_error() -> None:
    """Given one class whose own largest error is 2 % of its spread on most images → judged by RMS; still strictly."""
    net = network()
    reference = reference_from_module(net, EXAMPLE)
    wanted = reference.outputs["logits"]
    own = np.full_like(wanted.own_errors, 0.02)
    wild = dataclasses.replace(reference, outputs={"logits": dataclasses.replace(wanted, own_errors=own, own_rms=5e-4)})
    (held,) = wild.judge("eager", run_module(net))
    assert held and held.measure == "rms" and held.tolerance == pytest.approx(2e-3, rel=0.01)
    off = wanted.values + 0.02 * wanted.spread
    assert wild.compare("step", [off])[0].failed
    lost = dataclasses.replace(wild.outputs["logits"], own_rms=0.01)
    assert (
        "not certified: eager float32 itself"
        in dataclasses.replace(wild, outputs={"logits": lost}).judge("eager", run_module(net))[0].status
    )


def test_images_on_which_the_network_itself_is_chaotic_tell_nothing_but_must_be_finite() -> None:
    """Given an own error of a spread on one image → a step 100 spreads off there holds, an infinite one does not."""
    net = network()
    reference = reference_from_module(net, EXAMPLE)
    wanted = reference.outputs["logits"]
    own = wanted.own_errors.copy()
    own[14] = 1.0
    wild = dataclasses.replace(reference, outputs={"logits": dataclasses.replace(wanted, own_errors=own, own_rms=0.3)})
    off = wanted.values.copy()
    off[14] += 100 * wanted.spread
    assert wild.compare("step", [off])[0]
    off[14, 0] = np.inf
    assert wild.compare("step", [off])[0].failed
    elsewhere = wanted.values.copy()
    elsewhere[3] += 1e-3 * wanted.spread
    assert wild.compare("step", [elsewhere])[0].failed
