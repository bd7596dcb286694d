"""Integers that are numbers: judged by how far they are off, to the step that rounding takes either way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.parity import Reference, reference_from_module, run_module
from plainconv.exporter.parity.rounded import step_of
from plainconv.exporter.parity.wanted import wanted_output

EXAMPLE = torch.zeros(1, 3, 16, 16)
RNG = np.random.default_rng(0)


class Rounded(nn.Module):
    """A conv's output in whole numbers of a type, `levels` of them a spread."""

    def __init__(self, levels: float, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.levels, self.dtype = nn.Conv2d(3, 3, 3, padding=1), levels, dtype

    def forward(self, x: Tensor) -> Tensor:
        y = (self.conv(x) * self.levels).round()
        return y.to(self.dtype) if self.dtype != torch.float32 else y / self.levels


KINDS = [(60.0, torch.int16), (9000.0, torch.int32), (2.0, torch.int8), (64.0, torch.float32)]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def rounded(request: pytest.FixtureRequest) -> tuple[Reference, np.ndarray]:
    module = Rounded(*request.param)
    reference = reference_from_module(module, EXAMPLE)
    return reference, reference.run(run_module(module))[0]


def as_wanted(wanted: np.ndarray, y: np.ndarray) -> np.ndarray:
    return y.astype(wanted.dtype)


def test_a_choice_of_rounding_is_passed_in_float32_and_another_rounding_is_not(
    rounded: tuple[Reference, np.ndarray],
) -> None:
    """Given one number in some thousands a step off -> held; two steps, a share, or all cut off -> refused."""
    reference, y = rounded
    (facts,) = reference.outputs.values()
    assert facts.step > 0 and reference.compare("eager", [y])[0]
    once = y.copy()
    once[3, 1, 2, 2] += facts.step
    assert reference.compare("step", [once])[0]
    twice = y.copy()
    twice[3, 1, 2, 2] += 2 * facts.step
    many = as_wanted(y, y + facts.step * (RNG.random(y.shape) < 0.5))
    for wrong in (twice, many, as_wanted(y, y + facts.step), as_wanted(y, np.roll(y, 1, axis=0))):
        assert reference.compare("step", [wrong])[0].failed


@pytest.mark.parametrize(("share", "is_held"), [(0.9, True), (0.1, False)])
def test_where_most_of_eagers_own_are_a_step_off_a_few_may_be_two(share: float, is_held: bool) -> None:
    y = RNG.integers(0, 9000, (13, 400))
    own = y + np.where(np.arange(13) % 2, 1, -1)[:, None] * (RNG.uniform(size=y.shape) < share)
    facts = wanted_output(y, [own], ("normal",) * 13, np.arange(13), numbers=True)
    step = own.copy()
    step[2, :3] = y[2, :3] + 2
    reference = Reference(1, {"x": np.zeros((13, 1))}, ("normal",) * 13, {"y": facts})
    assert bool(reference.compare("step", [step])[0]) == is_held


@pytest.mark.parametrize("tolerance", [0.03, 0.3])
def test_numbers_off_by_less_than_the_tolerance_are_passed_whatever_their_steps(
    rounded: tuple[Reference, np.ndarray], tolerance: float
) -> None:
    """Given noise of half the tolerance before the rounding -> held; halves, zeros, another image's -> refused."""
    reference, y = rounded
    (facts,) = reference.outputs.values()
    noise = 0.5 * tolerance * facts.spread * RNG.standard_normal(y.shape)
    noisy = as_wanted(y, np.rint((y + noise + facts.step * RNG.uniform(-0.5, 0.5, y.shape)) / facts.step) * facts.step)
    if facts.step < 0.1 * facts.spread:
        assert reference.compare("step", [noisy], tolerance)[0]
    for wrong in (0 * y, y // 2 if y.dtype.kind == "i" else y / 2, -y, np.roll(y, 1, axis=0), np.roll(y, 1, axis=1)):
        assert reference.compare("step", [as_wanted(y, wrong)], tolerance)[0].failed


def test_it_is_kept_and_judges_as_before(rounded: tuple[Reference, np.ndarray], tmp_path: Path) -> None:
    reference, y = rounded
    reference.save(tmp_path / "r.npz")
    kept = Reference.load(tmp_path / "r.npz")
    assert kept.compare("step", [y]) == reference.compare("step", [y])
    assert kept.outputs["logits"].places == reference.outputs["logits"].places == (2, 3)


def test_names_are_not_judged_by_distance() -> None:
    class Classes(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.argmax(1), x.argmax(1).float()

    reference = reference_from_module(Classes(), EXAMPLE)
    y = [facts.values for facts in reference.outputs.values()]
    assert not any(facts.is_float for facts in reference.outputs.values())
    off = [np.where(each == 1, 2, each).astype(each.dtype) for each in y]
    assert all(parity.failed for parity in reference.compare("int8", off, tolerance=0.3))


def test_steps() -> None:
    levels = RNG.integers(0, 256, (13, 3, 8, 8))
    assert step_of(levels) == 1 and step_of(levels / 255) == pytest.approx(1 / 255)
    assert step_of(8 * levels) == 8 and step_of(levels.astype(np.float64)) == 1
    assert step_of(RNG.standard_normal((13, 400))) == 0
    assert step_of(np.maximum(RNG.standard_normal((13, 400)) - 1, 0)) == 0
    assert step_of(np.tile(np.arange(4.0) + 7, (13, 1))) == 0, "it does not move"
    assert step_of((levels > 9) * 255) == 0, "two values"
