"""What a plan is expected to take, against what its shape says."""

import json
import math

import pytest

from plainconv.exporter.bundle import plain_json
from plainconv.exporter.partition import (
    LINKS,
    MACS_ALONE,
    Device,
    Part,
    Plan,
    network_of_model,
    predict,
    prediction_of_json,
    whole_plan,
)
from plainconv.exporter.partition.problems import problems_of_plan

FREE = Device("free", {"fp32": 1e9}, math.inf)


def branches(nets, link="pcie", device=FREE, **kwargs):
    """A stem, two equal branches and a head; its network and the plan with the second branch on device 1."""
    network = network_of_model(nets.parallel(2, 3, **kwargs), link=LINKS[link], device=device)
    ops = network.wiring.ops
    stem = ops[0:2][-1].writes[0]
    join = next(op for op in ops if op.kind == "Add")
    first, second = join.reads
    parts = (
        Part("stem", 0, 0, ("x",), (stem,)),
        Part("there", 1, 0, (stem,), (second,)),
        Part("here", 0, 0, (stem,), (first,)),
        Part("tail", 0, 0, (first, second), network.wiring.outputs),
    )
    return (
        network,
        Plan(parts, 2),
        Plan((Part("there", 1, 0, ("x",), (second,)), Part("rest", 0, 0, ("x", second), network.wiring.outputs)), 2),
    )


def test_shares_and_path(nets):
    """Given two branches of equal work → the path is all but one of them, and nothing is computed again."""
    network, plan, _ = branches(nets)
    assert problems_of_plan(plan, network.wiring) == []
    found = predict(plan, network.wiring, network.machine)
    share = {part.name: part.share for part in found.parts}
    assert sum(share.values()) == pytest.approx(1) == found.work
    assert share["here"] == share["there"]
    assert found.mac_path == pytest.approx(1 - share["there"])
    assert found.bound == pytest.approx(1 / found.mac_path)


def test_break_even_is_what_is_sent_over_what_is_saved(nets):
    """Given MACs alone and copies on the path → break-even = their seconds / (1 − share of the path)."""
    network, plan, _ = branches(nets)
    found = predict(plan, network.wiring, network.machine)
    sent = sum(edge.arrival - edge.begin for edge in found.edges if edge.critical)
    assert len(found.edges) == 2
    assert found.break_even == pytest.approx(sent / (1 - found.mac_path), rel=1e-6)
    assert found.seconds == pytest.approx(found.whole * found.mac_path + sent)


def test_at_the_break_even_the_plan_is_as_fast_as_the_whole(nets):
    """Given a device on which the whole takes just that long → a speed-up of 1; a slower one → more."""
    network, plan, _ = branches(nets)
    found = predict(plan, network.wiring, network.machine)
    for factor, wanted in ((1.0, pytest.approx(1.0, abs=1e-6)), (0.5, None)):
        rate = 1e9 * found.whole / found.break_even * factor
        other = network_of_model(nets.parallel(2, 3), device=Device("other", {"fp32": rate}, math.inf))
        speedup = predict(plan, other.wiring, other.machine).speedup
        assert speedup == wanted if wanted is not None else speedup > 1.01


def test_stem_computed_twice_is_counted_twice(nets):
    """Given the stem on both devices → more work than the whole, the image sent in place of the stem's output."""
    network, _, again = branches(nets)
    assert problems_of_plan(again, network.wiring) == []
    found = predict(again, network.wiring, network.machine)
    stem = network.machine.costs[network.wiring.ops[0].name].macs
    total = sum(cost.macs for cost in network.machine.costs.values())
    assert found.work == pytest.approx(1 + stem / total)
    assert (found.edges[0].value, found.edges[0].source, found.edges[0].device) == ("x", None, 1)


def test_whole_as_a_plan_takes_as_long_as_the_whole(nets):
    network = network_of_model(nets.parallel(2, 3))
    found = predict(whole_plan(network), network.wiring, network.machine)
    assert found.seconds == pytest.approx(found.whole)
    assert found.edges == () and found.break_even == math.inf


def test_open_batch_is_predicted_at_the_batch_asked_for(nets):
    """Given eight images in place of one → eight times the bytes and the products."""
    model = nets.parallel(2, 3, batch="n")
    one, eight = (network_of_model(model, device=MACS_ALONE, axes=axes) for axes in ({}, {"n": 8}))
    plan = whole_plan(one)
    assert predict(plan, eight.wiring, eight.machine).whole == pytest.approx(
        8 * predict(plan, one.wiring, one.machine).whole
    )
    assert eight.machine.sizes.bytes["x"] == 8 * one.machine.sizes.bytes["x"]


def test_prediction_comes_back_of_its_json(nets):
    """Given predictions, one that never breaks even → as a manifest holds them and back, the same to the last bit."""
    network, plan, again = branches(nets, device=Device("d", {"fp32": 1e9}, 1e9, part=1e-6, event=1e-6))
    for each in (plan, again, whole_plan(network)):
        made = predict(each, network.wiring, network.machine)
        assert prediction_of_json(json.loads(json.dumps(plain_json(made), allow_nan=False))) == made
    assert math.isinf(made.break_even)


@pytest.mark.parametrize(
    "change",
    [
        {"parts": None},
        {"parts": [{}]},
        {"parts": [None]},
        {"parts": [{"name": "a", "colour": "red"}]},
        {"edges": None},
        {"edges": [{"value": "x"}]},
        {"critical": None},
        {"seconds": None},
        {"unknown": 1.0},
    ],
)
def test_json_that_is_no_prediction(nets, change):
    network, plan, _ = branches(nets)
    data = plain_json(predict(plan, network.wiring, network.machine))
    with pytest.raises((KeyError, TypeError)):
        prediction_of_json(data | change)


@pytest.mark.parametrize("data", [None, [], "prediction", 1.5])
def test_json_that_is_no_object_is_no_prediction(data):
    with pytest.raises(TypeError):
        prediction_of_json(data)


@pytest.mark.parametrize("key", ["parts", "edges", "critical", "seconds", "whole", "bound", "work", "score"])
def test_json_that_lacks_a_member(nets, key):
    network, plan, _ = branches(nets)
    data = plain_json(predict(plan, network.wiring, network.machine))
    del data[key]
    with pytest.raises((KeyError, TypeError)):
        prediction_of_json(data)
