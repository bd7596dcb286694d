"""Numbers that were rounded, and names: told by what they are made by."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from plainconv.exporter.parity.origin import are_numbers

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((2, 5, 8, 8)).astype(np.float32)


def written(x: Tensor) -> Tensor:
    """Into memory that was there before, through views."""
    y = torch.zeros(len(x), 2, 8, 8, dtype=torch.uint8)
    y[:, 0] = (x[:, 0] * 255).to(torch.uint8)
    return y


def painted(x: Tensor) -> Tensor:
    return torch.arange(15, dtype=torch.uint8).reshape(5, 3)[x.argmax(1)]


@pytest.mark.parametrize(
    ("compute", "number"),
    [
        (lambda x: (x.clamp(0, 1) * 255).round().to(torch.uint8), True),
        (lambda x: x.mul(9).int() + 3, True),
        (lambda x: torch.where(x > 0, x.mul(255).byte(), 0), True),
        (written, True),
        (lambda x: (x > 0).sum((1, 2, 3)), True),
        (lambda x: torch.stack([x.flatten(2).argmax(2) % 8, x.flatten(2).argmax(2) // 8], 2), True),
        (lambda x: x[:, :3].permute(0, 2, 3, 1).mul(255).to(torch.int16).contiguous(), True),
        (lambda x: x.argmax(1), False),
        (lambda x: x.argmax(1).to(torch.uint8) * 10 + 1, False),
        (lambda x: x.argmax(1).float(), False),
        (lambda x: x.max(1)[1], False),
        (lambda x: x.max(1)[0], True),
        (lambda x: x.flatten(1).topk(3)[1] % 5, False),
        (lambda x: (x > 0).to(torch.uint8) * 255, False),
        (lambda x: torch.where(x.sigmoid() > 0.5, x.argmax(1, keepdim=True), 255), False),
        (painted, False),
        (lambda x: x.argsort(1), False),
        (lambda x: x.argmax(1).flatten(1).gather(1, (x[:, 0] * 9).long().clamp(0, 63).flatten(1)), False),
        (lambda x: torch.arange(9)[(x * 9).long().clamp(0, 8)], True),
        (lambda x: torch.zeros(2, 9, 8, 8).scatter(1, x.argmax(1, keepdim=True), 1.0), False),
        (lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), x).byte(), True),
    ],
)
def test_what_is_chosen_is_a_name_and_what_is_rounded_a_number(
    compute: Callable[[Tensor], Tensor], number: bool
) -> None:
    assert are_numbers(compute, [SCORES]) == [number]


def test_memory_that_is_used_again_holds_what_was_written_last() -> None:
    def many(x: Tensor) -> tuple[Tensor, ...]:
        for _ in range(20):
            del_me = x.mul(3).int()
            del del_me
        names = [x.argmax(1) for _ in range(4)]
        return *names, torch.zeros(2, 8, 8, dtype=torch.int64)

    assert are_numbers(many, [SCORES]) == [False] * 5
