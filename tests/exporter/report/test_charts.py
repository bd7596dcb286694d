import re
import xml.etree.ElementTree as ElementTree

import pytest
from hostile import HOSTILE

from plainconv.exporter.report import charts

CHARTS = {
    "pairs": lambda: charts.pairs([HOSTILE, "b"], [3, 2], [1, 0], HOSTILE),
    "errors": lambda: charts.errors([(HOSTILE, 1e-7, 1e-5, 1e-6, "good"), ("b", None, None, None, "soft")], "errors"),
    "no errors": lambda: charts.errors([("b", 0.0, None, None, "soft")], "errors"),
    "spans": lambda: charts.spans([charts.Bar(HOSTILE, 0, 1), charts.Bar("b", 1, 2, "warn", HOSTILE)], "µs", "t"),
    "histogram": lambda: charts.histogram({HOSTILE: [1.0, 1.5, 2.0], "b": [1.0]}, "latency"),
    "one call": lambda: charts.histogram({"b": [1.0]}, "latency"),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_well_formed_in_the_pages_colors_with_text_as_text(name: str) -> None:
    svg = str(CHARTS[name]())
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    inks = set(re.findall(r"#[0-9a-f]{6}\b", svg))
    assert inks <= {"#000000", "#ffffff"}, inks
    assert "var(--" in svg
    assert root.get("role") == "img" and root.get("aria-label")
    if name != "one call" and "errors" not in name:
        shown = " ".join(each.text or "" for each in root.iter() if each.tag.endswith("text"))
        assert "<script" not in svg
        assert "<script>a…" in shown  # as it was written, cut in the middle


def test_a_name_in_a_bar_is_whole_or_left_out() -> None:
    """Given a bar with room for its name, and one without → the one name, and no piece of the other."""
    bars = [charts.Bar("device 0", 0, 90, label="device0.0"), charts.Bar("device 0", 90, 10, label="device0.1")]
    svg = str(charts.spans(bars, "µs", "a timeline"))
    assert "device0.0" in svg and "device0.1" not in svg


def test_the_legend_lies_within_the_chart() -> None:
    """Given names as long as rows may have → what is said of the colors is not cut off at the right."""
    legend = {"accent": "bound by sums", "second": "bound by memory"}
    bars = [charts.Bar(26 * "m", 0, 1), charts.Bar("n", 0, 2, "second")]
    root = ElementTree.fromstring(str(charts.spans(bars, "µs", "t", legend, thin=True)).replace("xlink:href", "href"))
    width = float(root.get("viewBox", "").split()[2])
    texts = [each for each in root.iter() if each.tag.endswith("text") and each.text in legend.values()]
    assert len(texts) == 2
    for each in texts:
        assert float(each.get("x", "nan")) + 5 * len(each.text or "") < width
