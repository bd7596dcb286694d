"""Plans that do not fit their network: each problem by name, and problems() against running the parts."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from plainconv.exporter.partition import Part, Plan, prepared, wiring_of
from plainconv.exporter.partition.problems import problems_of_plan

TEXT = """(float[2,3] x) => (float[2,3] y, float[2,3] z) {
    a = Relu(x)
    b = Mul(a, w)
    c = Neg(a)
    y = Add(b, c)
    z = Exp(c)
}"""
WEIGHT = np.full((2, 3), 0.5, np.float32)
A = Part("a", 0, 0, ("x",), ("a", "b"))
B = Part("b", 1, 0, ("a",), ("c", "z"))
C = Part("c", 0, 0, ("b", "c"), ("y",))
OWN = Part("b", 1, 0, ("x",), ("c", "z"))


def problems(made, *parts, devices=2, streams=1):
    return problems_of_plan(Plan(parts, devices, streams), wiring_of(made(TEXT, w=WEIGHT)))


def test_good_plans(made):
    """Given parts that read each other, and one that computes `a` again → no problem."""
    assert problems(made, A, B, C) == []
    assert problems(made, Part("a", 0, 0, ("x",), ("b",)), OWN, C) == []
    assert problems(made, Part("all", 0, 0, ("x",), ("y", "z")), devices=1) == []


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ((), "the plan has no parts"),
        ((A, B), "no part writes y, an output"),
        ((A, Part("b", 1, 0, ("a",), ("z",)), C), "part c: reads c, which no part writes"),
        ((B, A, C), "part b: reads a, which a writes after it; list a before"),
        ((A, Part("b", 2, 0, ("a",), ("c", "z")), C), "part b: device 2, wanted 0 to 1"),
        ((A, Part("b", 1, 1, ("a",), ("c", "z")), C), "part b: stream 1, wanted 0 to 0"),
        ((A, B, Part("B", 0, 0, ("b", "c"), ("y",))), "2 parts are called b"),
        ((A, Part("../b", 1, 0, ("a",), ("c", "z")), C), "its name is a file's"),
        ((A, B, C, Part("d", 1, 0, ("a",), ())), "part d: it writes nothing"),
        ((A, B, C, Part("d", 1, 0, ("b",), ("y",))), "part d: it takes the input x to compute its writes"),
        ((A, Part("b", 1, 0, ("q",), ("c", "z")), C), "part b: reads q, which the network does not have"),
        ((A, Part("b", 1, 0, ("a", "w"), ("c", "z")), C), "part b: reads w, a constant"),
        ((A, Part("b", 1, 0, ("a",), ("c", "z", "w")), C), "part b: writes w, a constant"),
        ((A, Part("b", 1, 0, ("a", "b"), ("c", "z")), C), "part b: reads b, which its writes do not need"),
        ((A, Part("b", 1, 0, ("a", "a"), ("c", "z")), C), "part b: reads a 2 times"),
        ((A, Part("b", 1, 0, ("a",), ("c", "z", "a")), C), "part b: writes a, which it reads"),
        ((A, Part("b", 1, 0, ("x", "a"), ("c", "z", "x")), C), "part b: writes x, which it reads"),
        ((A, B, Part("c", 0, 0, ("b", "c"), ("y", "x"))), "part c: writes x, an input of the network"),
        ((Part("a", 0, 0, ("x",), ("a", "b", "c")), B, C), "part b: writes c, which nothing reads from it"),
        ((A, B, C, Part("d", 1, 0, ("a",), ("b",))), "part d: nothing reads what it writes"),
        ((A, B, C, Part("d", 0, 0, ("a", "c"), ("b", "y"))), "a and d write b, all on device 0"),
    ],
)  # fmt: skip
def test_each_problem_is_named(made, parts, found):
    lines = problems(made, *parts)
    assert any(found in line for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_cycle_is_named(made):
    """Given two parts that each read what the other writes → a cycle, not an order."""
    one, other = Part("one", 0, 0, ("x", "c"), ("a", "y")), Part("other", 1, 0, ("a",), ("c", "z"))
    lines = problems(made, one, other)
    assert any("part one: reads c of other, which waits for it: a cycle" in line for line in lines), lines


def test_random_value_in_two_parts(made):
    """Given noise that two parts compute → they would differ; given one that writes it → no problem."""
    text = "(float[2] x) => (float[2] y, float[2] z) { n = RandomNormalLike(x) y = Add(x, n) z = Mul(x, n) }"
    wiring = wiring_of(made(text))
    twice = Plan((Part("a", 0, 0, ("x",), ("y",)), Part("b", 1, 0, ("x",), ("z",))), 2)
    assert any("random" in line for line in problems_of_plan(twice, wiring))
    once = Plan((Part("a", 0, 0, ("x",), ("n", "y")), Part("b", 1, 0, ("x", "n"), ("z",))), 2)
    assert problems_of_plan(once, wiring) == []


def test_value_that_is_no_tensor(made):
    """Given a sequence between two parts → a problem; inside one → none."""
    text = "(float[2] x) => (float[1] y) { s = SplitToSequence(x) y = SequenceAt(s, i) }"
    wiring = wiring_of(made(text, i=np.int64(0)))
    cut = Plan((Part("a", 0, 0, ("x",), ("s",)), Part("b", 1, 0, ("s",), ("y",))), 2)
    assert any("no known tensor type" in line for line in problems_of_plan(cut, wiring))
    assert problems_of_plan(Plan((Part("a", 0, 0, ("x",), ("y",)),), 1), wiring) == []


@st.composite
def networks(draw):
    """Up to ten nodes of one or two outputs on 4×2 arrays, two inputs, one weight; one or more outputs."""
    known, nodes = ["x0", "x1"], []
    for at in range(draw(st.integers(1, 10))):
        op = draw(st.sampled_from(["Relu", "Neg", "Add", "Mul", "Split"]))
        reads = [draw(st.sampled_from([*known, "w"])) for _ in range(2 if op in ("Add", "Mul") else 1)]
        if reads == ["w"] * len(reads):
            reads[0] = draw(st.sampled_from(known))
        if op == "Split":  # two halves, both of which are put together again in the other order
            nodes.append(helper.make_node("Split", reads, [f"h{at}", f"k{at}"], f"split{at}", axis=0, num_outputs=2))
            nodes.append(helper.make_node("Concat", [f"k{at}", f"h{at}"], [f"v{at}"], f"concat{at}", axis=0))
        else:
            nodes.append(helper.make_node(op, reads, [f"v{at}"], f"n{at}"))
        known.append(f"v{at}")
    made = [v for v in known if v.startswith("v")]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))

    def spec(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 2])

    weight = onnx.numpy_helper.from_array(np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2), "w")
    graph = helper.make_graph(nodes, "g", [spec("x0"), spec("x1")], [spec(v) for v in outputs], [weight])
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )


@st.composite
def cut_plans(draw, proto):
    """A plan that assigns each node to a part, most of them right, and then up to two mistakes."""
    nodes, outputs = list(proto.graph.node), {y.name for y in proto.graph.output}
    count = draw(st.integers(1, 3))
    levels = sorted(draw(st.integers(0, count - 1)) for _ in nodes)
    drafts = []
    for level in range(count):
        own = [n for n, at in zip(nodes, levels, strict=True) if at == level]
        later = {v for n, at in zip(nodes, levels, strict=True) if at > level for v in n.input}
        made = [v for n in own for v in n.output]
        writes = [v for v in made if v in later or v in outputs]
        if writes:
            drafts.append((draw(st.integers(0, 1)), needed(proto, writes, set(made))[1], writes))
    parts = [Part(f"p{at}", device, 0, tuple(sorted(r)), tuple(w)) for at, (device, r, w) in enumerate(drafts)]
    values = sorted({v for n in nodes for v in (*n.input, *n.output)} | {"nowhere"})
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(parts) - 1)) if parts else 0
        mistake = draw(st.sampled_from(["swap", "drop", "read", "write", "unread", "unwrite", "again"]))
        if not parts:
            break
        part = parts[at]
        extra = draw(st.sampled_from(values))
        if mistake == "swap":
            parts[0], parts[at] = parts[at], parts[0]
        elif mistake == "drop":
            del parts[at]
        elif mistake == "again":
            parts.insert(at, Part(f"{part.name}again", 1 - part.device, 0, part.reads, part.writes))
        else:
            reads, writes = list(part.reads), list(part.writes)
            if mistake == "read":
                reads.append(extra)
            elif mistake == "write":
                writes.append(extra)
            elif mistake == "unread" and reads:
                reads.pop()
            elif mistake == "unwrite" and writes:
                writes.pop()
            parts[at] = Part(part.name, part.device, 0, tuple(reads), tuple(writes))
    return Plan(tuple(parts), 2)


def needed(proto, writes, inside=None):
    """The nodes behind `writes`, and the values at which they end: those not in `inside`, where that is given."""
    maker = {v: n for n in proto.graph.node for v in n.output}
    names, ends, stack = [], set(), list(writes)
    while stack:
        value = stack.pop()
        if value in maker and (inside is None or value in inside):
            if maker[value].name not in names:
                names.append(maker[value].name)
                stack.extend(maker[value].input)
        elif value != "w":
            ends.add(value)
    return names, ends


def session_of(proto):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])


def part_proto(proto, part):
    """The part cut out of the file by hand, whether or not it runs; None where a name is no value of the network."""
    maker = {v: n for n in proto.graph.node for v in n.output}
    specs = {v.name: v for v in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)}
    if not part.writes or not {*part.reads, *part.writes} <= specs.keys() or set(part.writes) - maker.keys():
        return None
    wanted, stack = set(), [v for v in part.writes if v not in part.reads]
    while stack:
        value = stack.pop()
        if value in maker and value not in part.reads and maker[value].name not in wanted:
            wanted.add(maker[value].name)
            stack.extend(maker[value].input)
    own = [n for n in proto.graph.node if n.name in wanted]
    graph = helper.make_graph(
        own, "part", [specs[v] for v in part.reads], [specs[v] for v in part.writes], proto.graph.initializer
    )
    return helper.make_model(graph, opset_imports=proto.opset_import, ir_version=10)


def runs(proto, plan):
    """Whether the parts run in order, recompose to the whole bit by bit, and no part, read or write is for nothing."""
    rng = np.random.default_rng(0)
    inputs = {v.name: rng.standard_normal((4, 2)).astype(np.float32) for v in proto.graph.input}
    wanted = session_of(proto).run(None, inputs)
    on_device = {0: {}, 1: {}}  # device → value → (array, who wrote it)
    first, used, written = {v: (x, None) for v, x in inputs.items()}, set(), set()
    for part in plan.parts:
        cut = part_proto(proto, part)
        if cut is None or len({*part.reads}) < len(part.reads) or len({*part.writes}) < len(part.writes):
            return False
        if {*part.reads} - {v for n in cut.graph.node for v in n.input} or {*part.reads} & {*part.writes}:
            return False  # it reads what it does not use, or passes on what it reads
        feeds = {}
        for value in part.reads:
            found = on_device[part.device].get(value) or first.get(value)
            if found is None:
                return False
            feeds[value] = found[0]
            used.add((found[1], value))
        try:
            arrays = session_of(cut).run(list(part.writes), feeds)
        except Exception:  # an input that it does not read
            return False
        for value, array in zip(part.writes, arrays, strict=True):
            if value in on_device[part.device]:
                return False
            on_device[part.device][value] = (array, part.name)
            first.setdefault(value, (array, part.name))
            written.add((part.name, value))
    found = [on_device[0].get(y.name) or first.get(y.name) for y in proto.graph.output]
    if any(each is None for each in found):
        return False
    used |= {(each[1], y.name) for each, y in zip(found, proto.graph.output, strict=True)}
    return written <= used and all(a.tobytes() == b[0].tobytes() for a, b in zip(wanted, found, strict=True))


@settings(max_examples=examples(150))
@given(st.data())
def test_no_problems_if_and_only_if_the_parts_run_and_recompose(data):
    """Given a random network, and a plan with or without mistakes → problems() is empty exactly where it all runs."""
    proto = data.draw(networks())
    plan = data.draw(cut_plans(proto))
    found = problems_of_plan(plan, wiring_of(prepared(ir.serde.deserialize_model(proto))))
    if plan.parts:
        assert (found == []) == runs(proto, plan), (found, plan)
    else:
        assert found
