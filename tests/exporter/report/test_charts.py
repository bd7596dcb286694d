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
