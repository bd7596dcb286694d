"""Plans found for graphs of many shapes: right, worth it, the same each time; chains and losses refused."""

import json

import onnx_ir as ir
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from plainconv.exporter.errors import PlanError
from plainconv.exporter.partition import (
    LINKS,
    MACS_ALONE,
    Device,
    Link,
    Part,
    Plan,
    judged,
    network_of_model,
    plan_of_json,
    predict,
    propose,
    whole_plan,
)
from plainconv.exporter.partition.problems import problems_of_plan

SLOW = Device("slow", {"fp32": 1e9}, 1e12, kernel=1e-6, part=1e-6, event=1e-6)
IDLE = Device("idle", {"fp32": 1e9}, 1e12, kernel=1e-6, part=1e-6, event=1e-6, lanes=1 << 20)


def network(model, device=SLOW, link="nvlink", **kwargs):
    return network_of_model(model, device=device, link=LINKS[link], **kwargs)


def test_every_device_is_used_where_that_is_asked_for(nets):
    """Given branches of which two devices end soonest → two of the three, unless all are to be used."""
    net = network(nets.parallel(2, 4))
    assert propose(net, devices=3).plan.devices == 2
    found = propose(net, devices=3, every=True)
    assert found.plan.devices == 3 and problems_of_plan(found.plan, net.wiring) == []


def test_where_no_plan_uses_every_device_fewer_do(nets):
    net = network(nets.parallel(2, 1))
    assert propose(net, devices=8, every=True).plan.devices < 8


@pytest.mark.parametrize("placement", ["auto", "recompute", "transfer"])
def test_each_branch_on_a_device_of_its_own(nets, placement):
    """Given three equal branches and three devices → nearly the bound, and one device's share of the work each."""
    net = network(nets.parallel(3, 4))
    found = propose(net, devices=3, placement=placement)
    assert found.refusal is None and found.plan.devices == 3
    assert problems_of_plan(found.plan, net.wiring) == []
    assert found.prediction.speedup > 2
    assert found.prediction.bound >= found.prediction.speedup
    assert (found.prediction.work > 1) == (placement != "transfer")


def test_cheap_stem_is_recomputed_where_it_is_smaller_to_send_the_image(nets):
    """Given an image a tenth of the stem's output, slow to send → the stem on every device, and fewer bytes."""
    net = network(nets.parallel(3, 4), link="pcie")
    again, sent = (propose(net, devices=3, placement=p).prediction for p in ("auto", "transfer"))
    assert again.seconds <= sent.seconds
    assert again.sent < sent.sent


def test_more_devices_are_never_slower(nets):
    net = network(nets.inception(3))
    times = [propose(net, devices=n).prediction.score for n in (2, 3)]
    assert times[1] <= times[0]


@pytest.mark.parametrize("where", [{"devices": 3}, {"streams": 3}])
def test_chain_is_refused_with_the_reason(nets, where):
    found = propose(network(nets.chain(8)), **where)
    assert found.plan is None
    assert "is a chain" in found.refusal and "100.0%" in found.refusal
    for force in (False, True):
        with pytest.raises(PlanError, match="is a chain"):
            found.accepted(force=force)


def test_split_that_loses_is_refused_unless_forced(nets):
    """Given a link a hundred times too slow → a plan, with what it loses and from when on it would pay."""
    net = network_of_model(nets.parallel(3, 4), device=Device("fast", {"fp32": 1e13}, 1e13), link=Link(1e9, 1e-3))
    found = propose(net, devices=3)
    assert found.prediction.speedup < 1
    assert "it pays from" in found.refusal and "\n" not in found.refusal
    with pytest.raises(PlanError, match="it pays from"):
        found.accepted()
    assert problems_of_plan(found.accepted(force=True), net.wiring) == []


def test_streams_take_what_one_kernel_leaves_idle(nets):
    """Given kernels that fill a small part of a device → streams beside each other; ones that fill it → refused."""
    found = propose(network(nets.parallel(3, 4), IDLE), streams=3)
    assert found.refusal is None
    assert found.plan.devices == 1 and found.plan.streams > 1
    assert found.prediction.speedup > 1.5 and found.prediction.edges == () and found.prediction.work == 1
    full = propose(network(nets.parallel(3, 4), MACS_ALONE), streams=3)
    assert full.plan is None and "fill 100% of the device" in full.refusal


def test_one_device_is_the_whole(nets):
    net = network(nets.parallel(2, 2))
    found = propose(net)
    assert [part.name for part in found.plan.parts] == ["whole"] and found.refusal is None


@pytest.mark.parametrize(
    "arguments",
    [{"devices": 0}, {"streams": 0}, {"devices": 2, "streams": 2}, {"devices": 2, "placement": "best"}],
)
def test_arguments_that_make_no_sense(nets, arguments):
    with pytest.raises(PlanError, match="wanted"):
        propose(network(nets.parallel(2, 2)), **arguments)


def test_same_plan_each_time(nets):
    """Given the same network twice → the same JSON, byte by byte."""
    texts = {propose(network(nets.hrnet(1)), devices=2).plan.to_json() for _ in range(2)}
    assert len(texts) == 1 and json.loads(texts.pop())["devices"] == 2


@pytest.mark.parametrize("name", ["hrnet", "inception"])
def test_networks_whose_branches_meet_again_and_again(nets, name):
    """Given four streams that exchange, or modules of four branches → a sound plan that gains on two devices."""
    model = nets.hrnet(2, size=32) if name == "hrnet" else nets.inception(4)
    net = network(model)
    found = propose(net, devices=2)
    assert problems_of_plan(found.plan, net.wiring) == []
    assert found.refusal is None and found.prediction.speedup > 1.3


def test_thousand_nodes_within_the_effort(nets):
    """Given a graph of a thousand nodes → the search ends by itself, with a sound plan."""
    net = network(nets.hrnet(8, size=32))
    assert len(net.wiring.ops) > 900
    found = propose(net, devices=2, effort=10_000)
    assert problems_of_plan(found.plan, net.wiring) == [] and found.prediction.speedup > 1.2


def test_random_value_is_computed_once(made):
    """Given noise that both branches read → one part makes it, whatever is cheaper."""
    text = """(float[1,8,8,8] x) => (float[1,8,8,8] y) {
        n = RandomNormalLike(x)
        a = Conv<pads=[1,1,1,1]>(n, w) b = Conv<pads=[1,1,1,1]>(a, w)
        c = Conv<pads=[1,1,1,1]>(n, w) d = Conv<pads=[1,1,1,1]>(c, w)
        y = Add(b, d)
    }"""
    import numpy as np

    net = network(made(text, w=np.ones((8, 8, 3, 3), np.float32)))
    found = propose(net, devices=2)
    assert found.plan is not None and problems_of_plan(found.plan, net.wiring) == []


def test_quantized_value_goes_as_bytes(made):
    """Given Q/DQ before each branch's convs → what is sent is a byte an element, not four."""
    import numpy as np

    conv = "Conv<pads=[1,1,1,1]>"
    text = f"""(float[1,8,16,16] x) => (float[1,8,16,16] y) {{
        q = QuantizeLinear(x, s, z) e = DequantizeLinear(q, s, z)
        a = {conv}(e, w) p = QuantizeLinear(a, s, z) f = DequantizeLinear(p, s, z) b = {conv}(f, w)
        r = QuantizeLinear(b, s, z) g = DequantizeLinear(r, s, z)
        c = {conv}(e, w) t = QuantizeLinear(c, s, z) h = DequantizeLinear(t, s, z) d = {conv}(h, w)
        u = QuantizeLinear(d, s, z) i = DequantizeLinear(u, s, z)
        y = Add(g, i)
    }}"""
    net = network(made(text, s=np.float32(0.1), z=np.int8(0), w=np.ones((8, 8, 3, 3), np.float32)))
    found = propose(net, devices=2, placement="transfer")
    assert problems_of_plan(found.plan, net.wiring) == []
    assert {e.bytes for e in found.prediction.edges} <= {8 * 256.0, 4 * 8 * 256.0}
    assert all(e.value in "qrtup" or e.value in "xy" for e in found.prediction.edges)


def test_plan_of_someone_else_is_judged_by_the_same_measure(nets):
    """Given the plan that was found, read back → the same prediction and verdict; all as one part → it does not pay."""
    net = network(nets.parallel(3, 4))
    found = propose(net, devices=3)
    again = judged(plan_of_json(found.plan.to_json()), net)
    assert again == found and again.accepted() == found.plan
    whole = judged(whole_plan(net), net)
    assert whole.prediction == propose(net).prediction and "leave it whole" in whole.refusal


def test_plan_of_someone_else_that_loses(nets):
    """Given a plan sound in itself, on a machine where it loses → judged so, and taken only if forced."""
    plan = propose(network(nets.parallel(3, 4)), devices=3).plan
    fast = network_of_model(nets.parallel(3, 4), device=Device("fast", {"fp32": 1e13}, 1e13), link=Link(1e9, 1e-3))
    found = judged(plan, fast)
    assert found.plan == plan and found.prediction == predict(plan, fast.wiring, fast.machine)
    assert "it pays from" in found.refusal
    with pytest.raises(PlanError, match="it pays from"):
        found.accepted()
    assert found.accepted(force=True) == plan


def test_plan_in_which_nothing_runs_side_by_side(nets):
    """Given a chain cut in two on two devices → it never pays, and says so."""
    net = network(nets.chain(4))
    first = net.wiring.ops[1].writes[0]
    plan = Plan((Part("a", 0, 0, ("x",), (first,)), Part("b", 1, 0, (first,), net.wiring.outputs)), 2)
    found = judged(plan, net)
    assert found.prediction.speedup < 1
    assert "no network of this shape gains by it; leave it whole, or force it" in found.refusal


def test_plan_of_someone_else_with_problems(nets):
    """Given a plan with several problems → all of them in one line, forced or not: there is no proposal."""
    net = network(nets.parallel(2, 2))
    plan = Plan((Part("a", 2, 0, ("x", "nope"), net.wiring.outputs), Part("A", 0, 0, (), ("v1",))), 2)
    problems = problems_of_plan(plan, net.wiring)
    assert len(problems) > 3
    with pytest.raises(PlanError) as raised:
        judged(plan, net)
    assert f"the plan does not fit the network: {'; '.join(problems)}" in str(raised.value)
    assert "\n" not in str(raised.value)


@settings(max_examples=examples(25))
@given(st.data())
def test_any_graph_is_split_soundly_or_refused(nets, data):
    """Given a random layered graph, device and link → a plan without problems that pays, or a reason in one line."""
    from onnx import TensorProto, helper

    from plainconv.exporter.partition import prepared

    nodes = []
    for at in range(data.draw(st.integers(1, 14))):
        known = ["x", *(f"v{n}" for n in range(at))]
        reads = data.draw(st.lists(st.sampled_from(known[-5:]), min_size=1, max_size=2, unique=True))
        nodes.append(helper.make_node("Add" if len(reads) == 2 else "Exp", reads, [f"v{at}"], f"n{at}"))
    read = {v for n in nodes for v in n.input}
    outputs = [f"v{at}" for at in range(len(nodes)) if f"v{at}" not in read]
    specs = [helper.make_tensor_value_info(v, TensorProto.FLOAT, [64, 64]) for v in ("x", *outputs)]
    graph = helper.make_graph(nodes, "g", specs[:1], specs[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    device = Device("d", {"fp32": 1e9}, data.draw(st.sampled_from([1e7, 1e9, 1e12])), part=1e-6, event=1e-6)
    net = network(prepared(ir.serde.deserialize_model(proto)), device, data.draw(st.sampled_from(["pcie", "nvlink"])))
    where = data.draw(st.sampled_from([{"devices": 2}, {"devices": 3}, {"streams": 2}]))
    placement = data.draw(st.sampled_from(["auto", "transfer", "recompute"]))
    found = propose(net, **where, placement=placement, effort=3000)
    if found.plan is None:
        assert found.refusal and "\n" not in found.refusal
    else:
        assert problems_of_plan(found.plan, net.wiring) == []
        assert (found.prediction.speedup > 1) == (found.refusal is None)
