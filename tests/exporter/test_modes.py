from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from plainconv.exporter.modes import DispatchMode, Uninitialized
from plainconv.exporter.parity.widen import float64_outputs


class Seen(DispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_a_mode_sees_each_op_before_and_after_the_compiler_is_there() -> None:
    x = torch.ones(2)
    for _ in range(2):
        with Seen() as seen:
            (x + 1).relu()
        assert seen.ops == ["add", "relu"]
        torch.compile(nn.Identity())  # which loads it


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own imports
def test_the_compiler_does_not_look_into_what_a_mode_does() -> None:
    """Given a network with a compiled part → evaluated in float64, nothing of the evaluation is compiled."""
    graphs: list[fx.GraphModule] = []

    def backend(graph: fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    part = torch.compile(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), backend=backend)
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), part).eval(), torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        wanted = net(x)
    assert len(graphs) == 1
    assert float64_outputs(net, (x,)).float() == pytest.approx(wanted, abs=1e-5)
    assert len(graphs) == 1


def test_layers_are_made_without_numbers() -> None:
    before = torch.get_rng_state()
    with Uninitialized():
        layers = [nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 2), nn.Linear(3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert [tuple(layer.weight.shape) for layer in layers] == [(4, 3, 3, 3), (3, 4, 2, 2), (4, 3)]
