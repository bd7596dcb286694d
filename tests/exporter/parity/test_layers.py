"""Module boundaries of a network, and what lies between them."""

import numpy as np
import torch
from torch import Tensor, nn

from plainconv.exporter.parity.layers import Eager


class Sides(nn.Module):
    """join(left(x) + right(x)), the left side first."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        return torch.relu(self.join(left + right))


def test_modules_are_named_with_the_value_that_they_flow_into() -> None:
    """Given left, right → join → each is of the boundary after it; what is known to flow into the join is of that."""
    eager = Eager(Sides().eval(), [[np.ones((2, 3), np.float32)]])
    assert eager.within(["right", "join"]) == {"right": ("left", "right"), "join": ("join",)}
    eager.inside = {"join": ["left"]}
    assert eager.within(["right", "join"]) == {"right": ("right",), "join": ("left", "join")}
    assert eager.within(["right"]) == {"right": ("left", "right")}  # the join is not told of
