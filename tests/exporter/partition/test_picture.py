"""The plan in a terminal."""

from plainconv.exporter.partition import LINKS, Device, Link, network_of_model, picture, propose

SLOW = Device("slow", {"fp32": 1e9}, 1e12, part=1e-6, event=1e-6, lanes=1 << 20)


def test_devices(nets):
    """Given a split over devices → a line a part and a copy, the longest path marked, speed-up and break-even."""
    found = propose(network_of_model(nets.parallel(3, 4), device=SLOW), devices=3)
    lines = picture(found, LINKS["pcie"])
    text = "\n".join(lines)
    assert lines[0].startswith(f"{len(found.plan.parts)} parts on 3 devices over pcie")
    for part in found.prediction.parts:
        (line,) = [line for line in lines if f"  {part.name}  " in f"  {line[3:]}  " and "of the MACs" in line]
        assert line.startswith("▸") == part.critical
        assert f"{part.share:.1%} of the MACs" in line and "█" in line
    assert f"in {len(found.prediction.edges)} copies" in text
    assert f"{found.prediction.speedup:.2f}×" in text and "pays where the whole takes" in text
    assert all(len(line) < 160 for line in lines)


def test_streams(nets):
    text = "\n".join(picture(propose(network_of_model(nets.parallel(3, 4), device=SLOW), streams=3)))
    assert "1 device, 3 streams" in text and "nothing is sent" in text


def test_refusals(nets):
    """Given a chain → the reason alone; given a loss → the plan and the reason."""
    (line,) = picture(propose(network_of_model(nets.chain(4)), devices=2))
    assert line.startswith("not split: the network is a chain")
    losing = network_of_model(nets.parallel(3, 4), device=Device("fast", {"fp32": 1e13}, 1e13), link=Link(1e9, 1e-3))
    assert picture(propose(losing, devices=3))[-1].startswith("does not pay: the split takes")


def test_one_part(nets):
    (line,) = picture(propose(network_of_model(nets.parallel(2, 2))))
    assert line.startswith("1 part on 1 device: ")
