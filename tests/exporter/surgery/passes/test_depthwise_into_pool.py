import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import from_numpy
from torch.nn import functional as F

from plainconv.exporter.surgery.passes.depthwise_into_pool import DepthwiseIntoPool, pooled_kernel

GIVEN = """(double[N,4,7,7] x) => (double[N,4,1,1] y)
    {{ c = Conv<group=4{attrs}>({inputs}) y = GlobalAveragePool(c) }}"""


@pytest.mark.parametrize("inputs", ["x, w", "x, w, b"])
@pytest.mark.parametrize(
    "attrs", ["", ", pads=[3,3,3,3]", ", pads=[0,3,2,1], strides=[2,1]", ", pads=[2,2,2,2], dilations=[1,2]"]
)
def test_depthwise_and_pool_become_one_depthwise_over_the_whole_map(check_pass, attrs: str, inputs: str) -> None:
    weights = {name: shape for name, shape in {"w": (4, 1, 5, 5), "b": (4,)}.items() if name in inputs}
    graph = check_pass(DepthwiseIntoPool(), GIVEN.format(attrs=attrs, inputs=inputs), ["Conv"], weights)
    (conv,) = graph.nodes
    assert conv.inputs[1].shape == (4, 1, 7, 7)
    assert conv.inputs[1].name == "w"


@settings(max_examples=examples(25), deadline=None)
@given(
    size=st.tuples(st.integers(4, 8), st.integers(4, 8)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
def test_the_pooled_kernel_weighs_each_pixel_by_how_often_it_is_seen(size, kernel, stride, pad, dilation) -> None:
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if any(r > s + 2 * p for r, s, p in zip(reach, size, pad, strict=True)):
        return
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 3, *size)), rng.standard_normal((3, 1, *kernel))
    y = F.conv2d(from_numpy(x), from_numpy(w), None, stride, pad, dilation, groups=3)
    attrs = {"strides": stride, "dilations": dilation, "pads": [*pad, *pad]}
    summed = pooled_kernel(w, attrs, size, tuple(y.shape[2:]))
    np.testing.assert_allclose((x * summed[None, :, 0]).sum((2, 3)), y.mean((2, 3)).numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "given_text",
    [
        # not depthwise
        "(double[1,4,7,7] x) => (double[1,4,1,1] y) { c = Conv<pads=[2,2,2,2]>(x, dense) y = GlobalAveragePool(c) }",
        # an open size
        """(double[1,4,H,W] x) => (double[1,4,1,1] y)
           { c = Conv<group=4,pads=[2,2,2,2]>(x, w) y = GlobalAveragePool(c) }""",
        # the map has many more positions than the kernel weights
        """(double[1,4,9,9] x) => (double[1,4,1,1] y)
           { c = Conv<group=4,pads=[2,2,2,2]>(x, w) y = GlobalAveragePool(c) }""",
        # the map is read elsewhere
        """(double[1,4,7,7] x) => (double[1,4,1,1] y, double[1,4,7,7] c)
           { c = Conv<group=4,pads=[2,2,2,2]>(x, w) y = GlobalAveragePool(c) }""",
    ],
)
def test_it_is_left_where_it_does_not_fit_or_does_not_pay(check_pass, given_text: str) -> None:
    weights = {"dense": (4, 4, 5, 5)} if "dense" in given_text else {"w": (4, 1, 5, 5)}
    check_pass(DepthwiseIntoPool(), given_text, None, weights)
