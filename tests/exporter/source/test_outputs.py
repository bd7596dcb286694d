"""What a network returns, as tensors by name."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.errors import SourceError
from plainconv.exporter.source.outputs import flatten, named_outputs
from plainconv.exporter.source.signature import call_of_tensor

A, B, C = (torch.full((1,), float(i)) for i in range(3))
Pair = namedtuple("Pair", "boxes scores")


@dataclass
class Answer:
    out: Tensor
    aux: Tensor | None = None


@pytest.mark.parametrize(
    ("returned", "wanted"),
    [
        (A, {"logits": A}),
        ({"out": A, "aux": None}, {"out": A}),
        ((A, [B, C]), {"output_0": A, "output_1_0": B, "output_1_1": C}),
        (Pair(A, B), {"boxes": A, "scores": B}),
        (Answer(A, B), {"out": A, "aux": B}),
        ({"head.1": {"a b": A}, 2: B}, {"head_1_a_b": A, "2": B}),
    ],
)
def test_names(returned, wanted):
    """Given tensors in dicts, tuples and dataclasses -> each under its keys, in order; None is left out."""
    found = named_outputs(returned)
    assert list(found) == list(wanted) and all(found[name] is wanted[name] for name in wanted)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ({"a": A, "n": 3}, "returns a int as n; wanted tensors"),
        ("logits", "returns a str; wanted tensors"),
        ((None, {}), "returns a tuple without a tensor"),
        ({"a.b": A, "a_b": B}, "two outputs are called a_b"),
    ],
)
def test_what_is_none(returned, says):
    with pytest.raises(SourceError, match=says):
        named_outputs(returned)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        y = self.conv(image)
        return {"out": y, "low": y.mean((2, 3))}


def test_a_network_made_flat_keeps_its_names_and_is_traced():
    """Given a dict of outputs -> a tuple of the same tensors; weights, class and parameters are called as before."""
    net, x = Two().eval(), torch.randn(1, 3, 4, 4)
    wanted, keys = net(x), list(net.state_dict())
    flatten(net, call_of_tensor(x))
    assert type(net).__name__ == "Two" and list(net.state_dict()) == keys
    for found, name in zip(net(x), wanted, strict=True):
        torch.testing.assert_close(found, wanted[name], rtol=0, atol=0)
    program = torch.export.export(net, (x,))
    assert [node.name for node in program.graph.nodes if node.op == "placeholder"][-1] == "image"
    assert len(program.module()(x)) == 2
