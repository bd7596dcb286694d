"""What a network is called with, as a user says it on the command line."""

import numpy as np
import pytest
import torch
from torch import nn

from plainconv.exporter.cli.main import main
from plainconv.exporter.errors import SourceError
from plainconv.exporter.source.inputs import call_of_request, checked_rows, rows_like, rows_of_npz
from plainconv.exporter.source.network import InputSpec, Request
from plainconv.exporter.source.resolve import load_network


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, rgb, depth, *, scale=None):
        y = self.norm(self.conv(torch.cat([rgb, depth.float()], 1)))
        return {"y": y if scale is None else y * scale, "mask": {"low": y > 0}}


NETS = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3)

    def forward(self, rgb, depth):
        return self.conv(torch.cat([rgb, depth], 1))

def build(): return Pair()
def example_inputs(): return {"depth": torch.rand(1, 1, 9, 8), "rgb": torch.randn(1, 3, 9, 8)}
"""
RGB, DEPTH = InputSpec("rgb", (1, 3, 8, 8)), InputSpec("depth", (1, 1, 8, 8))


def call(**request):
    return call_of_request(Pair(), Request(**request), (1, 3, 8, 8), None)


def rows(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_shapes_by_name_with_types():
    found, data = call(inputs=(InputSpec("depth", (1, 1, 8, 8), "uint8"), RGB))
    assert {name: (tuple(x.shape), x.dtype) for name, x in found.inputs.items()} == {
        "rgb": ((1, 3, 8, 8), torch.float32),
        "depth": ((1, 1, 8, 8), torch.uint8),
    }
    assert data == {}


def test_a_file_is_example_and_data(tmp_path):
    path = rows(tmp_path / "f.npz", rgb=np.random.rand(5, 3, 8, 8), depth=np.ones((5, 1, 8, 8), np.float32), scale=2.0)
    found, data = call(inputs_file=path)
    assert [x.shape[:1] for x in found.inputs.values()] == [(1,), (1,), ()]
    assert {name: (len(x), x.dtype) for name, x in data.items()} == {"rgb": (5, np.float32), "depth": (5, np.float32)}
    with pytest.raises(SourceError, match="--input rgb given, and --inputs has it too"):
        call(inputs_file=path, inputs=(RGB,))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"inputs": (RGB, DEPTH), "input_shape": (1, 3, 8, 8)}, "--input-shape is for a network of one input"),
        ({"inputs": (RGB, RGB)}, "--input rgb given twice"),
        ({"inputs": (RGB,)}, "no input is given for depth"),
        ({"inputs": (RGB, DEPTH, InputSpec("x", (1,)))}, "there is no input x"),
        ({"inputs": (InputSpec("rgb", (2**40,)), DEPTH)}, "--input rgb of shape 1099511627776 cannot be made"),
    ],
)
def test_what_does_not_fit_is_one_line(request_, says):
    with pytest.raises(SourceError, match=says) as refused:
        call(**request_)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"a": np.zeros((2, 3)), "b": np.zeros((3, 3))}, "a has 2 rows and b 3"),
        ({"a": np.full((1, 2), np.nan)}, "a is not all finite"),
        ({"a": np.full((1, 2), 1e300)}, "a is not all finite as float32"),
        ({"a": np.zeros((0, 2))}, r"a is \[0, 2\], wants one row or more"),
        ({"a": np.array(["x"])}, "a is <U1, wants one of bool"),
        ({"a": np.zeros(2, np.uint64)}, "a is uint64, wants one of bool"),
        ({"a": np.array([{}], object)}, "no .npz file of plain arrays"),
        ({}, r"holds \[\], wants arrays by the names of inputs"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_rows_that_are_none(tmp_path, arrays, says):
    with pytest.raises(SourceError, match=says):
        rows_of_npz(rows(tmp_path / "f.npz", **arrays))


def test_rows_of_a_live_network_are_like_its_example():
    inputs = {"a": torch.zeros(1, 3), "i": torch.zeros(1, 2, dtype=torch.int64)}
    assert list(rows_like("data", {"a": np.zeros((4, 3))}, inputs)) == ["a"]
    for wrong, says in (
        ({"b": np.zeros((4, 3))}, "no input b"),
        ({"i": np.zeros((4, 2))}, "wants int64"),
        ({"a": np.zeros((4, 2))}, "wants float32"),
    ):
        with pytest.raises(SourceError, match=says):
            rows_like("data", wrong, inputs)
    assert checked_rows("data", {"a": [[1.0]]})["a"].dtype == np.float32


def test_example_beside_the_callable(tmp_path):
    """Given example_inputs() -> it is what the network is called with, unless a shape is given."""
    (tmp_path / "my nets.py").write_text(NETS)
    source = f"{tmp_path / 'my nets.py'}:build"
    network = load_network(source, Request())
    assert (network.name, [tuple(x.shape) for x in network.examples]) == ("my_nets", [(1, 3, 9, 8), (1, 1, 9, 8)])
    with pytest.raises(SourceError, match=r"forward\(rgb, depth\) takes more than one: --input NAME=SHAPE for each"):
        load_network(source, Request(input_shape=(1, 3, 8, 8)))
    assert load_network(source, Request(inputs=(DEPTH, RGB), name="grasp-1.0")).name == "grasp-1.0"
    (tmp_path / "my nets.py").write_text(NETS + "def example_inputs(): raise KeyError('none')")
    with pytest.raises(SourceError, match=r"example_inputs\(\) raised KeyError: 'none'; mend it"):
        load_network(source, Request())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--input", "rgb"], "'rgb' is no input; wanted NAME=SHAPE or NAME=SHAPE:TYPE"),
        (["--input", "rgb=1,3,8,8:float33"], "'float33' is no type of 'rgb=1,3,8,8:float33'; wanted one of bool"),
        (["--input", "rgb=1,-3"], "'1,-3' is not a shape"),
        (["--input-shape", "rgb=1,3,8,8"], "an input by its name is given with --input rgb=1,3,8,8"),
        (["--name", "../up"], "'../up' is no name of a file"),
        (["--name", "a" * 65], "is no name of a file"),
    ],
)
def test_options_that_are_none(capsys, options, says):
    with pytest.raises(SystemExit) as stop:
        main(["export", "x.py:build", "-o", "b", *options])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and len(said.splitlines()) == 1
