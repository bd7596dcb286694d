import torch
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from plainconv.exporter.parity.convolve import FEW, TILE, convolved, depthwise

PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=examples(40), deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    width=st.sampled_from((8, TILE + 1, 3 * TILE)),
    bias=st.booleans(),
)
def test_depthwise_is_the_conv_that_torch_computes(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    width: int,
    bias: bool,
) -> None:
    x, w = torch.randn(2, 5, 9, width, dtype=torch.float64), torch.randn(5, 1, *kernel, dtype=torch.float64)
    b = torch.randn(5, dtype=torch.float64) if bias else None
    wanted = F.conv2d(x, w, b, stride, padding, dilation, groups=5)
    found = depthwise(x, w, b, list(stride), list(padding), list(dilation))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def settled(
    x: Tensor, w: Tensor, b: Tensor | None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor | None:
    return convolved(x, w, b, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups)


@settings(max_examples=examples(60), deadline=None)
@given(
    size=PAIR, kernel=PAIR, stride=PAIR, padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=PAIR,
    groups=st.sampled_from((1, 2, 3)), images=st.integers(1, 3), bias=st.booleans(),
)  # fmt: skip
def test_a_convolution_of_few_positions_is_the_one_that_torch_computes(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    images: int,
    bias: bool,
) -> None:
    """Given a map that the kernel fits on or not → the same numbers in the same layout, or left to PyTorch."""
    x = torch.randn(images, 6, *size, dtype=torch.float64)
    w, b = torch.randn(12, 6 // groups, *kernel, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    found = convolved(
        x, w, b if bias else None, list(stride), list(padding), list(dilation), False, [0, 0], groups
    )  # fmt: skip
    if any(n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)):
        assert found is None
        return
    wanted = F.conv2d(x, w, b if bias else None, stride, padding, dilation, groups)
    if wanted[:, 0].numel() > FEW:
        assert found is None
    else:
        assert found is not None and found.is_contiguous()
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_what_torch_computes_as_quickly_is_left_to_it() -> None:
    x, w = torch.randn(1, 4, 9, 9, dtype=torch.float64), torch.randn(8, 4, 3, 3, dtype=torch.float64)
    assert settled(x, w, None) is not None
    assert settled(x, w, None, padding=1) is None  # 81 positions
    assert settled(torch.randn(0, 4, 9, 9, dtype=torch.float64), w, None) is None
    assert convolved(x, w, None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1) is None
    assert convolved(x[0], w[0], None, [1], [0], [1], False, [0], 1) is None
