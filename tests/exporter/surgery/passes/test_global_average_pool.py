import numpy as np
import pytest

from plainconv.exporter.surgery.passes.global_average_pool import GlobalAveragePool


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, -2]])
def test_a_mean_over_the_map_is_a_global_pool(check_pass, axes: list[int]) -> None:
    given = "(double[N,3,4,5] x) => (double[N,3,1,1] y) { y = ReduceMean(x, a) }"
    check_pass(GlobalAveragePool(), given, ["GlobalAveragePool"], {"a": np.array(axes)})


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
def test_a_global_pool_whose_axes_are_dropped_is_one_mean(check_pass, opset: int) -> None:
    given = "(double[N,3,4,5] x) => (double[N,3] y) { p = GlobalAveragePool(x) y = Flatten(p) }"
    check_pass(GlobalAveragePool(), given, ["ReduceMean"], opset=opset)


def test_a_mean_that_drops_the_axes_and_a_pool_that_is_read_with_them_stay(check_pass) -> None:
    given = "(double[2,3,4,5] x) => (double[2,3] y) { y = ReduceMean<keepdims=0>(x, a) }"
    check_pass(GlobalAveragePool(), given, None, {"a": np.array([2, 3])})
    given = "(double[2,3,4,5] x) => (double[2,3] y, double[2,3,1,1] p) { p = GlobalAveragePool(x) y = Flatten(p) }"
    check_pass(GlobalAveragePool(), given, None)


def test_an_average_pool_by_one_window_is_a_global_pool(check_pass) -> None:
    given = "(double[2,3,4,5] x) => (double[2,3,1,1] y) { y = AveragePool<kernel_shape=[4,5]>(x) }"
    check_pass(GlobalAveragePool(), given, ["GlobalAveragePool"])


@pytest.mark.parametrize("axes", [[1], [1, 2, 3], [2], [0, 2, 3]])
def test_another_mean_stays(check_pass, axes: list[int]) -> None:
    shape = [1 if i in axes else n for i, n in enumerate([2, 3, 4, 5])]
    given = f"(double[2,3,4,5] x) => (double{shape} y) {{ y = ReduceMean(x, a) }}".replace(" y", " y", 1)
    check_pass(GlobalAveragePool(), given, None, {"a": np.array(axes)})


@pytest.mark.parametrize(
    ("attrs", "shape"),
    [
        ("kernel_shape=[4,4]", "1,2"),
        ("kernel_shape=[4,5], pads=[1,1,1,1]", "3,3"),
        ("kernel_shape=[4,5], pads=[1,0,0,0]", "2,1"),
    ],
)
def test_another_average_pool_stays(check_pass, attrs: str, shape: str) -> None:
    given = f"(double[2,3,4,5] x) => (double[2,3,{shape}] y) {{ y = AveragePool<{attrs}>(x) }}"
    check_pass(GlobalAveragePool(), given, None)
