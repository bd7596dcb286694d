"""The series activation against its formula, written out (VanillaNet eq. 6)."""

import pytest
import torch

from plainconv.models.series_activation import SeriesActivation


@pytest.mark.parametrize("order", [0, 1, 3])
def test_series_activation_is_the_sum_of_equation_6(order: int) -> None:
    act = SeriesActivation(2, order, deploy=True).double()
    draw = torch.Generator().manual_seed(0)
    act.weight.data.normal_(generator=draw)
    act.bias.data.normal_(generator=draw)
    x = torch.randn(1, 2, 5, 4, generator=draw, dtype=torch.float64)
    expected = act.bias.data.view(1, 2, 1, 1).repeat(1, 1, 5, 4)
    for h in range(5):
        for w in range(4):
            for i in range(-order, order + 1):
                for j in range(-order, order + 1):
                    if 0 <= h + i < 5 and 0 <= w + j < 4:
                        a = act.weight.data[:, 0, order + i, order + j]
                        expected[0, :, h, w] += a * x[0, :, h + i, w + j].clamp(min=0)
    torch.testing.assert_close(act(x).detach(), expected, rtol=0, atol=1e-12)


def test_training_form_norms_the_sum() -> None:
    act = SeriesActivation(3, 1).eval()
    act.bn.running_mean.fill_(2.0)
    act.bn.running_var.fill_(4.0 - act.bn.eps)
    plain = SeriesActivation(3, 1, deploy=True)
    plain.weight.data.copy_(act.weight.data)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(act(x), (plain(x) - 2.0) / 2.0)


def test_state_dict_keys_are_the_published_ones() -> None:
    norm = ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]
    assert list(SeriesActivation(4).state_dict()) == ["weight", *norm]
    assert list(SeriesActivation(4, deploy=True).state_dict()) == ["weight", "bias"]
    assert SeriesActivation(4).weight.shape == (4, 1, 7, 7)
