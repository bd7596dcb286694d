"""The floor of a graph on a device: its sums, its bytes, its launches."""

import pytest

from plainconv.exporter.errors import PlanError
from plainconv.exporter.partition import A100
from plainconv.exporter.partition.cost import Device
from plainconv.exporter.partition.devices import sheet_of_name, sheets
from plainconv.exporter.partition.roofline import roofline

ROUND = Device("round", {"fp32": 1e9, "tf32": 4e9}, bandwidth=1e9, kernel=1e-3)


def test_one_conv(nets):
    """Given 4×4 channels, 3×3, on 8×8 with its ReLU → MACs/rate, (x + w + y)·4 bytes/bandwidth, one launch."""
    net = nets.Maker(4, 8)
    floor = roofline(net.model([net.conv("x", 4)]), ROUND)
    macs, moved = 4 * 4 * 9 * 64, 4 * (4 * 64 + 4 * 4 * 9 + 4 * 64)
    assert (floor.depth, floor.launches) == (1, 1e-3)
    assert floor.compute == pytest.approx(macs / 1e9)
    assert floor.memory == pytest.approx(moved / 1e9)
    assert floor.seconds == pytest.approx(macs / 1e9 + 1e-3)
    assert [layer.bound for layer in floor.layers if layer.macs] == ["compute"]


def test_tf32_is_asked_for(nets):
    """Given TF32 → fp32 convs compute at its rate, and memory may bind them."""
    net = nets.Maker(4, 8)
    model = net.model([net.conv("x", 4)])
    assert roofline(model, ROUND, tf32=True).compute == pytest.approx(roofline(model, ROUND).compute / 4)
    assert {layer.type for layer in roofline(model, ROUND, tf32=True).layers if layer.macs} == {"tf32"}


def test_branches_count_once_in_depth_and_all_in_work(nets):
    """Given two branches of three convs beside each other → three launches deep, six convs of work."""
    net = nets.Maker(4, 8)
    ends = []
    for _ in range(2):
        x = "x"
        for _ in range(3):
            x = net.conv(x, 4)
        ends.append(x)
    floor = roofline(net.model(ends), ROUND)
    assert floor.depth == 3 and sum(layer.macs > 0 for layer in floor.layers) == 6


def test_batch_scales_sums(nets):
    net = nets.Maker(4, 8, batch="n")
    model = net.model([net.conv("x", 4)])
    assert roofline(model, ROUND, {"n": 8}).compute == pytest.approx(8 * roofline(model, ROUND).compute)


@pytest.mark.parametrize("name", sheets())
def test_every_device_is_whole(name):
    """Given a device of the file → a source, a target, and rates that rise as types narrow; what is reached is less."""
    sheet = sheet_of_name(name.upper())
    peak, reached = sheet.device, sheet.reached()
    assert sheet.source and sheet.target.startswith("sm")
    assert peak.macs["int8"] >= peak.macs["fp16"] >= peak.macs["fp32"] > 1e12
    assert all(reached.macs[kind] < peak.macs[kind] for kind in reached.macs if kind in peak.macs)
    assert 1e11 < reached.bandwidth < peak.bandwidth < 1e13


def test_the_planners_a100_is_the_one_of_the_file():
    """Given A100 as the planner has always had it → the shares of the file's peaks, within a hundredth."""
    sheet = sheet_of_name("a100")
    assert sheet.reached() is A100
    for kind in ("fp32", "fp16", "int8"):
        assert A100.macs[kind] < sheet.device.macs[kind]
    with pytest.raises(PlanError, match="no device is called 'tpu'; wanted one of a100, "):
        sheet_of_name("tpu")
