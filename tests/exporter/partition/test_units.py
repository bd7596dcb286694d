"""Regions that become one unit, and those that stay apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.exporter.partition import wiring_of
from plainconv.exporter.partition.cost import Cost
from plainconv.exporter.partition.units import units_of_wiring
from plainconv.exporter.partition.wiring import Op, Spec, Wiring

FORK = "(float[2] x) => (float[2] y) { s = Relu(x) a = Exp(s) b = Neg(a) c = Abs(s) y = Add(b, c) }"


def units(wiring, seconds, hop):
    return units_of_wiring(wiring, {op.name: Cost(s, s) for op, s in zip(wiring.ops, seconds, strict=True)}, hop)


def test_fork_stays_where_its_branch_is_worth_a_hop(made):
    """Given a branch of 3 s beside one of 4 s → apart at a hop of 2 s, one unit at a hop of 3 s."""
    wiring = wiring_of(made(FORK))
    apart = units(wiring, [1, 2, 2, 3, 1], 2.0)
    assert sorted(len(unit.ops) for unit in apart) == [1, 1, 1, 2]
    (whole,) = units(wiring, [1, 2, 2, 3, 1], 3.0)
    assert (whole.ops, whole.alone, whole.reads, whole.writes) == ((0, 1, 2, 3, 4), 9, ("x",), ("y",))


def test_chain_is_one_unit_at_any_hop(made):
    wiring = wiring_of(made("(float[2] x) => (float[2] y) { a = Relu(x) b = Exp(a) y = Neg(b) }"))
    assert len(units(wiring, [1, 1, 1], 0.0)) == 1


def test_short_gate_beside_a_long_conv_is_part_of_its_block(made):
    """Given two blocks of a long and a short way each → one unit, as a chain of blocks is."""
    text = """(float[2] x) => (float[2] y) {
        a = Exp(x) g = Sigmoid(x) s = Mul(a, g)
        b = Exp(s) h = Sigmoid(s) y = Mul(b, h)
    }"""
    assert len(units(wiring_of(made(text)), [9, 1, 0, 9, 1, 0], 1.0)) == 1


def test_shape_arithmetic_goes_with_its_readers(made):
    """Given a shape that two branches read → each has its own Shape op, and reads what that reads."""
    text = """(float[n,2] x) => (float[n,2] y) {
        s = Shape(x)
        a = Exp(x)
        b = Reshape(a, s)
        c = Abs(x)
        d = Reshape(c, s)
        y = Add(b, d)
    }"""
    wiring = wiring_of(made(text))
    found = units(wiring, [0, 5, 1, 5, 1, 1], 1.0)
    shape = next(at for at, op in enumerate(wiring.ops) if op.kind == "Shape")
    assert sum(shape in unit.ops for unit in found) == 2
    assert all("s" not in (*unit.reads, *unit.writes) for unit in found)


@st.composite
def wirings(draw):
    ops = []
    for at in range(draw(st.integers(1, 14))):
        known = ["x", *(f"v{n}" for n in range(at))]
        reads = draw(st.lists(st.sampled_from(known[-6:]), min_size=1, max_size=3, unique=True))
        ops.append(Op(f"op{at}", "Any", tuple(reads), (f"v{at}",)))
    read = {v for op in ops for v in op.reads}
    outputs = tuple(op.writes[0] for op in ops if op.writes[0] not in read)
    specs = {v: Spec("FLOAT", (1,)) for v in ["x", *(op.writes[0] for op in ops)]}
    return Wiring(("x",), outputs, tuple(ops), frozenset(), specs)


@given(wirings(), st.floats(0, 8), st.randoms(use_true_random=False))
def test_units_are_a_partition_in_an_order_that_runs(wiring, hop, random):
    """Given any graph and hop → each op in one unit, each unit after those it reads, no time lost or made."""
    seconds = [random.choice([0.0, 1.0, 3.0]) for _ in wiring.ops]
    found = units(wiring, seconds, hop)
    assert sorted(at for unit in found for at in unit.ops) == list(range(len(wiring.ops)))
    assert sum(unit.alone for unit in found) == pytest.approx(sum(seconds))
    known = {"x"}
    for unit in found:
        assert set(unit.reads) <= known
        made = {wiring.ops[at].writes[0] for at in unit.ops}
        known |= made
        assert set(unit.writes) <= made
    assert set(wiring.outputs) <= {v for unit in found for v in unit.writes}
