"""How forward is called: names of inputs, and what does not fit."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.errors import SourceError
from plainconv.exporter.source.outputs import flatten
from plainconv.exporter.source.signature import call_by_name, call_of_example, call_of_tensor, tensor_of

A, B, C = (torch.full((1, 2), float(i)) for i in range(3))


def net(forward) -> nn.Module:
    return type("Net", (nn.Module,), {"forward": forward})()


PAIR = net(lambda self, rgb, depth, *, gain=1: (rgb + 2 * depth) * gain)
NESTED = net(lambda self, image, boxes, more=None: image + 2 * boxes[0] + 3 * boxes[1] + more["a.b"])
ANY = net(lambda self, *xs: sum(xs))
WORDS = net(lambda self, **named: named["left"] - named["right"])


@pytest.mark.parametrize(
    ("module", "example", "names"),
    [
        (PAIR, (A, B), ["rgb", "depth"]),
        (PAIR, {"depth": B, "rgb": A}, ["rgb", "depth"]),
        (PAIR, {"depth": B, "rgb": A, "gain": C}, ["rgb", "depth", "gain"]),
        (NESTED, (A, [B, C], {"a.b": A}), ["image", "boxes_0", "boxes_1", "more_a_b"]),
        (ANY, (A, B), ["xs_0", "xs_1"]),
        (ANY, A, ["xs_0"]),
        (WORDS, {"right": B, "left": A}, ["right", "left"]),
    ],
)
def test_inputs_have_the_names_of_parameters(module, example, names):
    """Given any example -> names in the order of forward; flat, the network takes just these, and gives the same."""
    call = call_of_example(module, example)
    assert list(call.inputs) == names
    wanted = call.run(module)
    flat = type(module)()
    flatten(flat, call)
    assert torch.equal(flat(*call.inputs.values()), wanted)
    program = torch.export.export(flat, tuple(call.inputs.values()))
    placeholders = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    assert placeholders == names or call.is_flat


def test_one_tensor_twice_is_two_inputs_and_what_is_given_stays():
    call = call_of_example(PAIR, (A, A))
    first, second = call.inputs.values()
    assert first.data_ptr() != second.data_ptr() != A.data_ptr()


def test_constants_stay_and_arrays_are_tensors():
    call = call_of_example(PAIR, {"rgb": np.ones((1, 2)), "depth": np.float64(2.0), "gain": 3})
    assert {name: x.dtype for name, x in call.inputs.items()} == {"rgb": torch.float32, "depth": torch.float32}
    assert call.inputs["depth"].shape == () and call.run(PAIR).tolist() == [[15.0, 15.0]]


@pytest.mark.parametrize(
    ("module", "example", "says"),
    [
        (PAIR, (A,), r"does not fit forward\(rgb, depth, \*, gain=1\) \(missing a required argument: 'depth'\)"),
        (PAIR, (A, B, C), "too many positional arguments"),
        (PAIR, {"rgb": A, "dpth": B}, "does not fit forward"),
        (PAIR, [A, B], "does not fit forward"),
        (
            PAIR,
            (
                A,
                "b",
            ),
            None,
        ),
        (PAIR, (A, object()), "has a object as depth; wanted tensors"),
        (
            PAIR,
            (A, torch.ones(1, dtype=torch.complex64)),
            "the input depth is complex64.*; wanted a dense tensor of bool",
        ),
        (PAIR, (A, torch.ones(0, 3)), "the input depth is without elements"),
        (PAIR, (1, 2), "has no tensor for forward"),
        (NESTED, (A, [B, C], {"a.b": A, "a_b": B}), "two inputs are called more_a_b"),
    ],
)
def test_an_example_that_does_not_fit_is_one_line(module, example, says):
    if says is None:
        assert list(call_of_example(module, example).inputs) == ["rgb"]
        return
    with pytest.raises(SourceError, match=says) as refused:
        call_of_example(module, example)
    assert "\n" not in str(refused.value)


def test_tensors_by_name():
    assert list(call_by_name(PAIR, {"depth": B, "rgb": A}).inputs) == ["rgb", "depth"]
    assert list(call_by_name(ANY, {"b": B, "a": A}).inputs) == ["b", "a"]
    assert call_by_name(WORDS, {"right": B, "left": C}).run(WORDS).tolist() == [[1.0, 1.0]]
    with pytest.raises(SourceError, match=r"there is no input dpth: it is forward\(rgb, depth"):
        call_by_name(PAIR, {"rgb": A, "dpth": B})
    with pytest.raises(SourceError, match=r"no input is given for depth of forward.*add --input depth=SHAPE"):
        call_by_name(PAIR, {"rgb": A})


def test_a_shape_alone_has_no_name():
    call = call_of_tensor(A)
    assert (list(call.inputs), str(call), call.is_flat) == (["input"], "shape 1,2", True)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "bfloat16", "float32"])
def test_random_tensors(dtype):
    x = tensor_of((64,), dtype, torch.Generator().manual_seed(0))
    assert isinstance(x, Tensor) and str(x.dtype) == f"torch.{dtype}" and len(x.unique()) > 1
    assert x.is_floating_point() or int(x.max()) <= (255 if dtype == "uint8" else 1)
