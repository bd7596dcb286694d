import onnx_ir as ir

from plainconv.exporter.partition import prepared, wiring_of
from plainconv.exporter.report.drawing import boxes_of, drawn

TEXT = """<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,8,8] x) => (float[1,4,8,8] y)
<float[4,4,1,1] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}>
{ [one] a = Conv(x, w) [act] r = Relu(a) [left] b = Conv<strides=[1,1]>(r, w) [right] c = Conv(r, w)
  [far] d = Sigmoid(c) [join] s = Add(b, d) [skip] y = Add(s, r) }"""


def boxes():  # type: ignore[no-untyped-def]
    model = prepared(ir.from_onnx_text(TEXT))
    return boxes_of(model, wiring_of(model))


def test_what_follows_alone_is_in_the_box_and_rows_follow_the_depth() -> None:
    found = {box.names[0]: box for box in boxes()}
    assert list(found) == ["one", "left", "right", "join", "skip"]
    assert found["one"].names == ["one", "act"]
    assert found["one"].lines == ("Conv 1×1", "4 → 4 + Relu")
    assert [found[name].row for name in found] == [0, 1, 1, 2, 3]
    assert found["skip"].reads == (3, 0)


def test_boxes_of_a_row_stand_apart() -> None:
    found = {box.names[0]: box for box in boxes()}
    assert abs(found["left"].column - found["right"].column) >= 1
    assert found["join"].column == (found["left"].column + found["right"].column) / 2


def test_a_box_that_more_is_said_of_is_a_link_with_a_badge() -> None:
    svg = drawn(boxes(), {"left": "region-3 5→1"}, ["x"], ["y"])
    assert svg.count("<a ") == 1
    assert 'href="#region-3"' in svg and ">5→1<" in svg
    assert svg.count('class="arrow"') == 8
