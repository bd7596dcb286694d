import pytest

from plainconv.exporter.surgery.passes.relu_past_maxpool import ReluPastMaxPool

WEIGHTS = {"w": (4, 3, 3, 3)}
GIVEN = """(double[1,3,9,9] x) => (double[1,4,{out},{out}] y)
    {{ c = Conv(x, w)  p = MaxPool<{attrs}>(c)  y = Relu(p) }}"""


@pytest.mark.parametrize(
    ("attrs", "out"),
    [
        ("kernel_shape=[2,2], strides=[2,2]", 3),
        ("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]", 4),
        ("kernel_shape=[3,3], strides=[1,1], pads=[2,0,0,2]", 7),
    ],
)
def test_conv_maxpool_relu_becomes_conv_relu_maxpool(check_pass, attrs: str, out: int) -> None:
    given = GIVEN.format(attrs=attrs, out=out)
    graph = check_pass(ReluPastMaxPool(), given, ["Conv", "Relu", "MaxPool"], WEIGHTS)
    assert [node.op for node in graph.nodes] == ["Conv", "Relu", "MaxPool"]


@pytest.mark.parametrize(
    ("attrs", "out"),
    [
        ("kernel_shape=[2,2], strides=[2,2], ceil_mode=1", 4),
        ("kernel_shape=[2,2], dilations=[2,2], pads=[1,1,1,1]", 7),
        ('kernel_shape=[2,2], auto_pad="SAME_UPPER"', 7),
    ],
)
def test_a_pool_whose_window_may_lie_in_the_padding_alone_is_left(check_pass, attrs: str, out: int) -> None:
    check_pass(ReluPastMaxPool(), GIVEN.format(attrs=attrs, out=out), None, WEIGHTS)


@pytest.mark.parametrize(
    "given",
    [
        # what is pooled, or the pooled value, has another reader
        """(double[1,3,8,8] x) => (double[1,4,3,3] y, double[1,4,6,6] z)
           { c = Conv(x, w) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(c) y = Relu(p) z = Neg(c) }""",
        """(double[1,3,8,8] x) => (double[1,4,3,3] y, double[1,4,3,3] z)
           { c = Conv(x, w) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(c) y = Relu(p) z = Neg(p) }""",
        """(double[1,3,8,8] x) => (double[1,4,3,3] y, double[1,4,3,3] p)
           { c = Conv(x, w) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(c) y = Relu(p) }""",
        # nothing to fuse the Relu into: it would cost a pass over the larger value
        """(double[1,4,6,6] x) => (double[1,4,3,3] y)
           { p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) y = Relu(p) }""",
    ],
)
def test_it_is_left_where_something_else_reads_on_the_way_or_nothing_is_gained(check_pass, given: str) -> None:
    check_pass(ReluPastMaxPool(), given, None, WEIGHTS if "Conv" in given else None)
