"""Multiply-accumulates, bytes and seconds of nodes; links and profiles as a user writes them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.exporter.errors import PlanError
from plainconv.exporter.partition import (
    A100,
    LINKS,
    MACS_ALONE,
    Device,
    Link,
    link_of_text,
    read_profile,
    wiring_of,
)
from plainconv.exporter.partition.cost import costs_of_nodes, sizes_of_values, works_of_model

CONVS = """(float[b,3,8,8] x) => (float[b,10] y) {
    c = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)
    r = Relu(c)
    t = ConvTranspose<strides=[2,2]>(r, v)
    g = GlobalAveragePool(t)
    f = Flatten(g)
    y = Gemm<transB=1>(f, m)
}"""
WEIGHTS = {
    "w": np.ones((4, 3, 3, 3), np.float32),
    "v": np.ones((4, 5, 2, 2), np.float32),
    "m": np.ones((10, 5), np.float32),
}
PLAIN = Device("plain", {"fp32": 1e9, "int8": 4e9}, bandwidth=1e9, kernel=1e-6)


def works(model, axes=None):
    wiring = wiring_of(model)
    return works_of_model(model, wiring, sizes_of_values(wiring, axes)), wiring


@pytest.mark.parametrize("batch", [1, 6])
def test_macs_of_convs_and_products(made, batch):
    """Given an open batch → the products of each op at the batch asked for, at 1 where none is."""
    found, _ = works(made(CONVS, **WEIGHTS), {"b": batch} if batch > 1 else None)
    macs = [work.macs for work in found.values()]
    assert macs == [batch * n for n in (4 * 16 * 27, 0, 4 * 16 * 20, 0, 0, 50)]


def test_bytes_of_a_kernel_and_of_what_joins_it(made):
    """Given conv → relu → …: the conv reads x and w and writes c, the relu moves nothing, the view costs nothing."""
    found, _ = works(made(CONVS, **WEIGHTS))
    conv, relu, _, _, flatten, _ = found.values()
    assert conv.bytes == 4 * (3 * 64 + 4 * 27 + 4 * 16)
    assert relu.bytes == 0 and not relu.kernel
    assert flatten == type(flatten)()


def test_add_of_a_skip_reads_the_skip_alone(made):
    """Given conv + skip → the sum joins the conv's kernel and pays for the other operand."""
    text = "(float[1,2,8,8] x) => (float[1,2,8,8] y) { c = Conv(x, w) y = Add(c, x) }"
    found, _ = works(made(text, w=np.ones((2, 2, 1, 1), np.float32)))
    assert [work.bytes for work in found.values()][1] == 4 * 128
    assert [work.kernel for work in found.values()] == [True, False]


def test_value_that_two_read_is_written(made):
    """Given a value that two ops read → neither runs in its kernel."""
    found, _ = works(made("(float[1,8] x) => (float[1,8] y) { a = Exp(x) b = Relu(a) c = Neg(a) y = Add(b, c) }"))
    assert [work.kernel for work in found.values()] == [True, True, True, False]


def test_quantized_conv_computes_in_its_type_and_moves_a_quarter(made):
    """Given Q/DQ before a conv → the conv has int8's rate, the DQ costs nothing and the Q's output is a byte each."""
    text = """(float[1,4,8,8] x) => (float[1,4,8,8] y) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        v = DequantizeLinear(w, s, z)
        y = Conv(d, v)
    }"""
    model = made(text, s=np.float32(0.1), z=np.int8(0), w=np.ones((4, 4, 1, 1), np.int8))
    found, wiring = works(model)
    kinds = {op.kind: found[op.name] for op in wiring.ops if op.kind != "DequantizeLinear"}
    assert kinds["Conv"].type == "int8"
    assert all(found[op.name].bytes == 0 for op in wiring.ops if op.kind == "DequantizeLinear")
    assert sizes_of_values(wiring).bytes["q"] == 256
    assert kinds["Conv"].bytes == 256 + 16 + 4 * 256


def test_between_two_quantized_convs_are_bytes(made):
    """Given conv → relu → Q → DQ → conv → the first writes a byte each, and the second reads them so."""
    text = """(int8[1,4,8,8] q) => (float[1,4,8,8] y) {
        d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, s, z)
        a = Conv(d, v) r = Relu(a) p = QuantizeLinear(r, s, z)
        e = DequantizeLinear(p, s, z) y = Conv(e, v)
    }"""
    found, wiring = works(made(text, s=np.float32(0.1), z=np.int8(0), w=np.ones((4, 4, 1, 1), np.int8)))
    moved = {op.writes[0]: found[op.name].bytes for op in wiring.ops}
    assert (moved["a"], moved["r"], moved["y"]) == (256 + 16 + 256, 0, 256 + 16 + 4 * 256)
    assert moved["p"] <= 5  # the scale and the zero point


def test_half_precision_values_are_half_the_bytes(made):
    model = made("(float16[1,8] x) => (float16[1,8] y) { y = Relu(x) }")
    assert sizes_of_values(wiring_of(model)).bytes["y"] == 16


def test_roofline():
    """Given products and bytes → the longer of the two, with the kernel's own time on top; busy has none of that."""
    from plainconv.exporter.partition.cost import Work

    costs = costs_of_nodes({"a": Work(2000, 1000.0, 10, True), "b": Work(2000, 8000.0, 10, True)}, PLAIN)
    assert costs["a"].alone == pytest.approx(3e-6) and costs["a"].busy == pytest.approx(2e-6)
    assert costs["b"].alone == pytest.approx(9e-6) and costs["b"].busy == pytest.approx(8e-6)


def test_small_map_leaves_the_device_idle():
    """Given a quarter as many elements as the device has lanes → four times the time alone, the same of the device."""
    from plainconv.exporter.partition.cost import Work

    wide = Device("wide", {"fp32": 1e9}, bandwidth=math.inf, lanes=400)
    cost = costs_of_nodes({"a": Work(1000, 0.0, 100, True)}, wide)["a"]
    assert (cost.alone, cost.busy) == (pytest.approx(4e-6), pytest.approx(1e-6))
    assert wide.filled(1) == 1 / 32


def test_profile_takes_the_place_of_the_roofline(made):
    """Given a measured node → its time; the others by the factor that the roofline is off by on the measured ones."""
    found, wiring = works(made(CONVS, **WEIGHTS))
    name = wiring.ops[0].name
    modelled = costs_of_nodes(found, PLAIN)
    measured = costs_of_nodes(found, PLAIN, {name: modelled[name].alone * 3})
    assert measured[name].alone == pytest.approx(3 * modelled[name].alone)
    last = wiring.ops[-1].name
    assert measured[last].alone == pytest.approx(3 * modelled[last].alone)
    assert measured[last].busy / measured[last].alone == pytest.approx(modelled[last].busy / modelled[last].alone)


@pytest.mark.parametrize(("profile", "found"), [({"nobody": 1.0}, "nobody"), ({}, "no node")])
def test_profile_of_another_network(made, profile, found):
    with pytest.raises(PlanError, match=found):
        costs_of_nodes(works(made(CONVS, **WEIGHTS))[0], PLAIN, profile)


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("pcie", LINKS["pcie"]),
        ("nvlink", LINKS["nvlink"]),
        ("25:10", Link(25e9, 10e-6)),
        ("0.5:0", Link(0.5e9, 0.0)),
        ("inf:2", Link(math.inf, 2e-6)),
    ],
)
def test_links(text, link):
    found = link_of_text(text)
    assert (found.bandwidth, found.latency) == pytest.approx((link.bandwidth, link.latency))


@given(st.text(max_size=12) | st.builds("{}:{}".format, st.floats(), st.floats()))
def test_any_text_is_a_link_or_refused(text):
    """Given any text → a link that takes a positive time for a byte, or a PlanError of one line."""
    try:
        link = link_of_text(text)
    except PlanError as error:
        assert "wanted pcie, nvlink, or GB/s:µs" in str(error)
    else:
        assert link.bandwidth > 0 and 0 <= link.latency < math.inf


@pytest.mark.parametrize("content", ["{", "[]", '{"a": -1}', '{"a": "1"}', '{"a": true}', '{"a": NaN}', '{"a": 1e400}'])
def test_bad_profile(tmp_path, content):
    path = tmp_path / "profile.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PlanError) as error:
        read_profile(path)
    assert "give {node: seconds}" in str(error.value)


def test_profile_file(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"a": 1, "b": 2.5e-6}), encoding="utf-8")
    assert read_profile(path) == {"a": 1.0, "b": 2.5e-6}


def test_devices_are_ordered_as_they_should_be():
    """Given the two that ship → fp16 faster than fp32; MACs alone costs nothing but products."""
    assert A100.macs["fp16"] > A100.macs["fp32"]
    assert (MACS_ALONE.kernel, MACS_ALONE.part, MACS_ALONE.bandwidth) == (0.0, 0.0, math.inf)
