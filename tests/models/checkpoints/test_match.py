"""Keys and shapes of a state dict against those of a network."""

import pytest
import torch

from plainconv.models import create, entries
from plainconv.models.checkpoints.match import FORMS, closest_network, mismatch, overlap, shapes_of


def test_mismatch_names_what_differs() -> None:
    found = {"a": (1,), "b": (2, 3), "extra": (1,)}
    wanted = {"a": (1,), "b": (2, 4), "absent": (1,), "bn.num_batches_tracked": ()}
    assert str(mismatch(found, wanted)) == (
        "1 key missing (first: absent), 1 key unexpected (first: extra), "
        "1 of another shape (first: b is 2×3, wanted 2×4)"
    )


def test_equal_shapes_have_no_mismatch() -> None:
    assert not mismatch({"a": (1,)}, {"a": (1,), "bn.num_batches_tracked": ()})


def test_overlap_is_a_share_of_all_keys() -> None:
    assert overlap({"a": (1,), "b": (1,)}, {"a": (1,), "b": (2,), "c": (1,)}) == 1 / 3
    assert overlap({}, {}) == 0.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name",
    [
        "vanillanet_9",
        "parnet_s",
        pytest.param("parnet_s_96", marks=pytest.mark.slow),
        "repvgg_b1g2",
        "vanillanet_digits",
    ],
)
def test_a_network_is_closest_to_itself(name: str, form: str) -> None:
    with torch.device("meta"):
        state = create(name, deploy=form == "deploy", num_classes=12).state_dict()
    assert closest_network(state) == (name, form, 1.0)


def test_keys_and_shapes_tell_all_networks_but_one_pair_apart() -> None:
    """The † variant has the pools and the stem's stride to itself, but no key and no shape."""
    with torch.device("meta"):
        layouts = {name: tuple(shapes_of(create(name).state_dict()).items()) for name in entries()}
    assert len(set(layouts.values())) == len(layouts) - 1
    assert layouts["vanillanet_13_x1_5"] == layouts["vanillanet_13_x1_5_ada_pool"]


def test_no_network_is_near_a_stranger() -> None:
    assert closest_network(torch.nn.Linear(2, 3).state_dict()) is None


def test_shapes_need_no_storage() -> None:
    assert shapes_of({"a": torch.empty(2, 3, device="meta")}) == {"a": (2, 3)}
