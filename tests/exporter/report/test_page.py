"""The report as a file, and as Chromium shows it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import HOSTILE
from page_browser import BROWSER, Browser

from plainconv.exporter.bundle import Bundle
from plainconv.exporter.partition.devices import sheet_of_name
from plainconv.exporter.report import Extras, report_of_bundle

EXTRAS = Extras(sheet_of_name("h100"), {"stem": 1e-5}, {HOSTILE: [1.0, 1.2, 1.1]}, "a machine")


@pytest.fixture(scope="module")
def text(held: Bundle) -> str:
    return report_of_bundle(held, EXTRAS)


def test_all_sections_are_there_and_nothing_is_asked_for(text: str) -> None:
    """Given a bundle that holds everything → every section, under 3 MB, no script, and no address but its own."""
    ids = re.findall(r'<section id="(\w+)"', text)
    assert ids == ["summary", "network", "parity", "layers", "precision", "split", "provenance"]
    assert len(text.encode()) < 3_000_000
    assert not re.search(r"<script|<link(?! rel=\"icon\" href=\"data:,\")|<img|\bsrc=|@import|url\((?!#)", text)
    for address in re.findall(r'(?:href|xlink:href)="([^"]*)"', text):
        assert address.startswith("#") or address == "data:,"
    assert "2→1" in text and "NVIDIA H100" in text and "10.00" in text  # a merged region, the GPU, the measured µs


def test_what_strangers_wrote_is_text(text: str) -> None:
    """Given markup in names, reasons and records → none of it in the page, and what it says is."""
    assert "alert(" in text
    assert "<script" not in text.lower()
    assert "&lt;script&gt;alert" in text


def test_it_is_the_same_each_time(held: Bundle, text: str) -> None:
    assert report_of_bundle(held, EXTRAS) == text


def test_ids_are_unique_and_every_anchor_leads_somewhere(text: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert sorted(set(ids)) == sorted(ids)
    assert set(re.findall(r'href="#([^"]*)"', text)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)


def test_a_bundle_without_parity_says_what_measures_it(branches, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from plainconv.exporter.bundle import update_bundle

    path = branches.of("chain", tmp_path / "b")
    with update_bundle(path) as draft:
        draft.manifest.parities[:] = []
        draft.manifest.counts, draft.manifest.extra = {}, {}
    assert report_of_bundle(Bundle.open(path), EXTRAS).count("exporter validate") == 2


@pytest.fixture(scope="module")
def page(text: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if BROWSER is None:
        pytest.skip("needs Chromium")
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(text, encoding="utf-8")
    browser = Browser(folder / "profile")
    browser("Page.navigate", url=(folder / "report.html").as_uri())
    browser.wait("document.readyState == 'complete' && document.querySelector('footer') !== null")
    yield browser
    browser.close()


def test_it_fits_a_phone(page: Browser) -> None:
    page("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    assert page.js("document.documentElement.scrollWidth") <= 390
    assert (
        page.js("Math.min(...[...document.querySelectorAll('.chart text')].map(e => e.getBoundingClientRect().height))")
        > 7
    )
    page("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_by_day_and_by_night(page: Browser, scheme: str) -> None:
    """Given a color scheme → body and chart text contrast with the card by 4.5 to 1 and more."""
    page("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    light = """(color) => { const [r, g, b] = color.match(/[\\d.]+/g).map(x => (x / 255) ** 2.2);
                            return 0.2126 * r + 0.7152 * g + 0.0722 * b; }"""
    for selector, which in (
        ("main p", "color"),
        ("td.bad", "color"),
        (".chart text", "fill"),
        (".network text", "fill"),
    ):
        a, b = (
            page.js(f"({light})(getComputedStyle(document.querySelector({json.dumps(at)})).{what})")
            for at, what in ((selector, which), ("section", "backgroundColor"))
        )
        assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 4.5, selector


def test_a_merged_box_leads_to_what_it_was_by_keyboard(page: Browser) -> None:
    assert page.js("document.querySelector('#region-0').checkVisibility()") is False
    page.js("document.querySelector('a[href=\"#region-0\"]').focus()")
    for kind in ("keyDown", "keyUp"):
        page("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    page.wait("document.querySelector('#region-0').checkVisibility()")
    assert "stem.conv" in page.text("#region-0")


def test_nothing_was_fetched_or_complained_of(page: Browser) -> None:
    assert [address for address in page.asked if not address.startswith(("file:", "data:"))] == []
    assert page.console == []
