"""The page of a server in a process of its own: asked as any client would, and in a browser."""

import io
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import image_bundles
import numpy as np
import onnxruntime as ort
import page_browser
import pytest
from PIL import Image
from places import ASSETS

from plainconv import engines
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.cli.main import main

WEIRD = "<img src=x onerror='window.harmed=1'>"
CLASSIFY = "/v2/models/digits/infer"
PNG = {"Content-Type": "image/png"}
TOKEN = "a-token-of-some-length"


in_a_browser = pytest.mark.skipif(page_browser.BROWSER is None, reason="no Chromium here; apt-get install chromium")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`digits`, trained; `named`, whose tensors are named like HTML and whose classes have names; `found`, of boxes."""
    folder = tmp_path_factory.mktemp("models")
    digits = ["vanillanet_digits", "--checkpoint", str(ASSETS / "vanillanet_digits.pth"), "-o", str(folder / "digits")]
    assert main(["export", *digits, "--dynamic-batch", "1:4:32", "--skip-end-to-end", "--quiet", "--json"]) == 0
    image_bundles.named(folder / "named", WEIRD)
    image_bundles.found(folder / "found", ("all", WEIRD))
    return folder


@pytest.fixture(scope="module")
def digits(store: Path) -> Any:
    """Held-out digits as PNG files, the inputs that they must become, and the network's logits for these."""
    with np.load(ASSETS / "digits_heldout.npz") as held_out:
        images = held_out["images"][:40, 0]
    pixels = np.clip(np.rint((images * 0.4 + 0.3) * 255), 0, 255).astype(np.uint8)
    inputs = ((pixels / 255 - 0.3) / 0.4).astype(np.float32)[:, None]
    session = ort.InferenceSession(store / "digits" / "model.onnx", providers=["CPUExecutionProvider"])
    return [png(each) for each in pixels], inputs, session.run(None, {"input": inputs})[0]


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def get(server: Any, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    answer = server.raw(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def state_of(server: Any, model: str = "digits") -> Any:
    """What the page is told of a model."""
    status, state = server.ask("GET", "/ui/state")
    assert status == 200
    return next(each for each in state["models"] if each["name"] == model)


def infer(server: Any, x: Any) -> list[float]:
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": x.reshape(-1).tolist()}
    status, answer = server.ask("POST", "/v2/models/digits/infer", json.dumps({"inputs": [tensor]}))
    assert status == 200
    return answer["outputs"][0]["data"]


@pytest.mark.parametrize("path", ["/", "/ui/page.css", "/ui/page.js", "/ui/answers.js", "/ui/icon.svg", "/ui/state"])
def test_what_a_browser_is_told_to_do_with_it(server: Any, path: str) -> None:
    """Given any part of the page -> it may load from this server alone, runs nothing inline, and is not kept."""
    status, headers, body = get(server, path)
    assert (status, headers["x-content-type-options"], headers["cache-control"]) == (200, "nosniff", "no-store")
    assert headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "unsafe" not in headers["content-security-policy"] and "server" not in headers
    assert int(headers["content-length"]) == len(body)
    assert set(re.findall(rb"https?://[^\"'` ]+", body)) <= {b"http://www.w3.org/2000/svg"}
    assert not re.search(rb"<style|<script>| style=| on\w+=\"|innerHTML|\d+\.\d+\.\d+", body)


def test_a_head_without_a_body(server: Any) -> None:
    status, headers, body = get(server, "/", "HEAD")
    assert status == 200 and int(headers["content-length"]) > 1000 and body == b""


def test_what_the_models_are(server: Any, store: Path) -> None:
    digits = state_of(server)
    assert (digits["loaded"], digits["backend"], digits["precision"], digits["batch"]) == (
        True,
        "onnxruntime",
        "fp32",
        8,
    )
    assert digits["inputs"] == [{"name": "input", "datatype": "FP32", "shape": ["batch", 1, 32, 32]}]
    assert digits["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["batch", 10]}]
    takes = "gray, shortest side to 32 (bilinear), the middle 32×32, (v/255 − [0.3]) / [0.4]"
    assert digits["image"] == {"takes": takes, "kind": "classify"}
    status, state = server.ask("GET", "/ui/state")
    assert (status, state["ready"], state["draining"]) == (200, True, False)
    assert str(store) not in json.dumps(state) and digits.keys().isdisjoint({"sha256", "folder"})


def test_a_model_that_is_not_loaded(start: Callable[..., Any], make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a model that was unloaded -> it is listed where the repository is offered; its form cannot be asked."""
    make(tmp_path / "models" / "a")
    make(tmp_path / "models" / "b")
    server = start(tmp_path / "models", "--repository-api", "--access-log", "none")
    assert server.ask("POST", "/v2/repository/models/a/unload")[0] == 200
    assert state_of(server, "a") == {"name": "a", "loaded": False, "reason": "unloaded"}
    assert server.ask("POST", "/v2/models/a/infer", b"x", PNG)[0] == 503
    assert state_of(server, "b")["image"]["refused"].startswith("the bundle says not how an image becomes its input")


def test_classes_are_those_of_the_network(server: Any, store: Path, digits: Any) -> None:
    """Given digits as PNG files -> what the protocol answers to the inputs that they become, and what predict says."""
    with engines.load(store / "digits", "onnxruntime") as net:
        for file, x, expected in zip(*digits, strict=True):
            status, answer = server.ask("POST", CLASSIFY, file, PNG)
            assert status == 200 and (answer["kind"], answer["image"]) == ("classify", {"width": 32, "height": 32})
            assert answer["prepared"] == "PNG of 32×32, gray"
            powers = np.exp(np.float64(np.float32(infer(server, x[None]))) - expected.max())
            order = np.argsort(-powers)[:5].tolist()
            assert [each["number"] for each in answer["predictions"]] == order and order[0] == expected.argmax()
            shares = [each["score"] for each in answer["predictions"]]
            assert np.allclose(shares, (powers / powers.sum())[order], rtol=1e-9)
            assert answer["predictions"] == [each.as_json() for each in net.predict(file)]


def test_classes_with_names(server: Any) -> None:
    for shade, first in ((255, f"bright{WEIRD}"), (0, "dark")):
        _, answer = server.ask("POST", "/v2/models/named/infer", png(np.full((9, 9), shade, np.uint8)), PNG)
        assert answer["predictions"][0]["label"] == first
        assert answer["prepared"] == "PNG of 9×9, gray, resized to 4×4"


def test_boxes(server: Any, store: Path) -> None:
    """Given a wide image -> boxes in its own pixels, without the letterbox; the third box is suppressed."""
    file = png(np.zeros((20, 40, 3), np.uint8))
    _, answer = server.ask("POST", "/v2/models/found/infer", file, PNG)
    assert answer["kind"] == "detect"
    assert [(each["label"], each["xyxy"]) for each in answer["predictions"]] == [
        ("all", [0.0, 0.0, 40.0, 20.0]),
        (WEIRD, [10.0, 0.0, 30.0, 20.0]),
    ]
    with engines.load(store / "found", "onnxruntime") as net:
        assert [each.as_json() for each in net.predict(file)] == answer["predictions"]


def test_images_are_requests_like_others(server: Any, digits: Any) -> None:
    """Given images from many at once -> each gets its own classes, in shared batches, and is counted once."""
    files, _, expected = digits
    before = state_of(server)["counts"].get("request", {"counts": [0]})["counts"][-1]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: server.ask("POST", CLASSIFY, files[i], PNG)}))
        for i in range(len(files))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i][1]["predictions"][0]["number"] for i in range(len(files))] == expected.argmax(1).tolist()
    counts = state_of(server)["counts"]
    assert counts["request"]["counts"][-1] == before + len(files)
    assert counts["rows"]["counts"][-1] <= counts["rows"]["sum"]


@pytest.mark.parametrize(
    ("path", "sent", "status", "said"),
    [
        (CLASSIFY, b"", 400, "the file is no image that can be read; give one of PNG, JPEG, WEBP, GIF, BMP"),
        (CLASSIFY, b"no image at all", 400, "the file is no image that can be read"),
        (CLASSIFY, png(np.zeros((99, 99), np.uint8))[:60], 400, "the PNG file is damaged, or cut short"),
        (CLASSIFY, b"\0" * (2**20 + 1), 413, "the request's body is larger than the 1048576 bytes"),
        (CLASSIFY, png(np.zeros((8000, 8000), bool)), 413, "the image has more than 33554432 pixels"),
        ("/v2/models/none/infer", b"x", 404, "there is no model 'none'"),
        ("/v2/models/..%2f..%2fdigits/infer", b"x", 404, "there is no model '..%2f..%2fdigits'"),
        ("/ui/nothing", b"x", 404, "there is nothing at this path"),
    ],
)
def test_a_bad_file(server: Any, digits: Any, path: str, sent: bytes, status: int, said: str) -> None:
    """Given what cannot be answered -> its status and one sentence; the next image is answered."""
    found, answer = server.ask("POST", path, sent, PNG)
    assert found == status and list(answer) == ["error"] and said in answer["error"]
    assert server.ask("POST", CLASSIFY, digits[0][0], PNG)[1]["predictions"][0]["number"] == digits[2][0].argmax()


def test_the_page_needs_no_token_and_all_that_it_asks_does(
    start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    server = start(store, "--token-file", token_file(tmp_path), "--access-log", "none")
    assert get(server, "/")[0] == get(server, "/ui/page.js")[0] == 200
    assert server.ask("GET", "/ui/state")[0] == server.ask("POST", CLASSIFY, b"x", PNG)[0] == 401
    assert server.ask("GET", "/ui/reports/digits")[0] == 401
    assert server.ask("GET", "/ui/state", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


def report(bundle: Path, sha256: str) -> bytes:
    """Put a report beside a bundle, which says that it is of a bundle with that hash."""
    text = f"<!doctype html><style>p {{ color: red }}</style><p>Bundle {sha256}</p><script>document.title = 1</script>"
    bundle.with_name(f"{bundle.name}.html").write_text(text)
    return text.encode()


def test_a_report_beside_its_bundle(start: Callable[..., Any], make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a report -> it is there while it is of the version served, and may neither run nor fetch anything."""
    bundle = make(tmp_path / "models" / "digits")
    server = start(tmp_path / "models", "--access-log", "none")
    assert not state_of(server)["report"]
    status, answer = server.ask("GET", "/ui/reports/digits")
    assert status == 404 and "exporter report BUNDLE -o BUNDLE.html" in answer["error"]
    text = report(bundle, Bundle.open(bundle).sha256)
    assert state_of(server)["report"]
    status, headers, body = get(server, "/ui/reports/digits")
    assert (status, body, headers["content-type"]) == (200, text, "text/html; charset=utf-8")
    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "style-src 'unsafe-inline'", "sandbox"} <= set(policy) and "script" not in str(policy)
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    place = bundle.with_name(f"{bundle.name}.html")
    place.unlink()
    os.mkfifo(place)  # nothing to wait at for ever
    assert not state_of(server)["report"] and server.ask("GET", "/ui/reports/digits")[0] == 404
    place.unlink()
    report(bundle, "0" * 64)
    assert not state_of(server)["report"] and server.ask("GET", "/ui/reports/digits")[0] == 404
    for name in ("none", "..%2fdigits", "%2e%2e"):
        assert server.ask("GET", f"/ui/reports/{name}")[0] == 404


def token_file(folder: Path) -> Path:
    path = folder / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    started = page_browser.Browser(tmp_path / "profile")
    try:
        yield started
    finally:
        started.close()


CARD = "[...document.querySelectorAll('article')].find((each) => each.querySelector('h2').innerText === 'digits')"


def in_card(selector: str, more: str = "innerText") -> str:
    """JavaScript for what stands there in the card of the digits."""
    return f"{CARD}.querySelector({json.dumps(selector)}).{more}"


def answered(browser: Any) -> int:
    return int(browser.js(in_card("[data-is=counts] dd")).replace(",", ""))


def choose(browser: Any, file: Path) -> None:
    """Choose a file in the card of the digits, and send the form as a click does."""
    browser.choose("#file-of-digits", file)
    browser.js(in_card("button", "click()"))


@in_a_browser
def test_people_see_the_models(server: Any, browser: Any) -> None:
    """Given the page -> each model, what it takes and gives, and that it is ready; any name is text."""
    browser.open(f"http://{server.http}/")
    assert browser.text("#health") == "live and ready"
    browser.wait("document.querySelectorAll('article').length === 3")
    text = browser.js(f"{CARD}.innerText")
    for part in ("ONNX Runtime", "fp32", "batches of up to 8 rows", "input", "[batch, 1, 32, 32]", "[batch, 10]"):
        assert part in text
    assert browser.js(in_card("[data-is=health]")) == "ready"
    assert WEIRD in browser.text("main")
    assert browser.js("[window.harmed ?? 0, document.querySelectorAll('main img').length]") == [0, 0]
    assert browser.js("document.querySelectorAll('input:not([type=hidden])').length") == browser.js(
        "[...document.querySelectorAll('input')].filter((each) => each.labels.length).length"
    )
    for width in (1180, 360):
        browser("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 800)
        assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.console == []
    assert {urlsplit(address).netloc for address in browser.asked} == {server.http}


@in_a_browser
def test_people_see_the_load(server: Any, browser: Any, digits: Any) -> None:
    """Given requests while the page is open -> they are counted there, with latency and batches."""
    browser.open(f"http://{server.http}/")
    browser.wait(f"!!{CARD}")
    assert answered(browser) == 0 and browser.js(in_card("[data-is=latency] dd")) == "–"
    for x in digits[1][:12]:
        infer(server, x[None])
    browser.wait(f"{in_card('[data-is=counts] dd')} === '12'")
    assert re.fullmatch(r"≈ [\d.]+m?s", browser.js(in_card("[data-is=latency] dd")))
    counts = "[...place.querySelectorAll('.column span:first-child')]"
    bars = f"{counts}.reduce((sum, each) => sum + Number(each.innerText), 0)"
    for chart in ("latency-chart", "batch-chart"):
        place = f"((place) => {bars})({in_card(f'[data-is={chart}]', 'closest(`div`)')})"
        assert browser.js(place) == 12
        assert "in the last minute: " in browser.js(in_card(f"[data-is={chart}]", "getAttribute('aria-label')"))
    request = state_of(server)["counts"]["request"]
    total = request["counts"][-1]
    number, unit = re.fullmatch(
        r"≈ ([\d.]+)(m?s)", browser.js(in_card("[data-is=latency] > div:nth-child(3) dd"))
    ).groups()
    assert float(number) <= max(request["largest"]) * (1005 if unit == "ms" else 1.005)
    browser.js("document.querySelector('input[value=start]').click()")
    browser.wait(f"{in_card('[data-is=counts] dd')} === '{total:,}'")
    assert total >= 12 and browser.console == []


@in_a_browser
def test_people_classify_an_image(server: Any, browser: Any, digits: Any, tmp_path: Path) -> None:
    """Given an image -> its class; given another file -> why not, in one sentence; and then an image again."""
    files, _, expected = digits
    browser.open(f"http://{server.http}/")
    browser.wait(f"!!{CARD}")
    for i in (0, 1):
        (tmp_path / f"{i}.png").write_bytes(files[i])
        choose(browser, tmp_path / f"{i}.png")
        first = f"Class {expected[i].argmax()}"
        assert browser.js(in_card("button")) == "Classify"
        browser.wait(f"{in_card('[data-is=top]')}.startsWith('{first}')")
        assert "PNG of 32×32, gray" in browser.js(in_card("[data-is=how]"))
        assert not browser.js(in_card("canvas", "hidden")) and browser.console == []
        if i == 0:
            (tmp_path / "bad.png").write_text("no image")
            choose(browser, tmp_path / "bad.png")
            said = browser.wait(in_card("[data-is=error]"))
            assert said == "The file is no image that can be read; give one of PNG, JPEG, WEBP, GIF, BMP."
            assert browser.js(in_card("[data-is=answer]", "hidden")) and browser.js(in_card("canvas", "hidden"))
            assert [text for text in browser.console if "400" not in text] == []  # the browser notes the status itself
            browser.console.clear()
    assert browser.js(in_card("[data-is=error]")) == ""
    assert {urlsplit(address).netloc for address in browser.asked} == {server.http}


@in_a_browser
def test_people_see_boxes_and_copy_the_request(server: Any, browser: Any, tmp_path: Path) -> None:
    """Given an image for a detector -> boxes on it in the colours of their classes, and the same request as code."""
    browser.open(f"http://{server.http}/")
    browser.wait("document.querySelectorAll('article').length === 3")
    (tmp_path / "a.png").write_bytes(png(np.zeros((20, 40, 3), np.uint8)))
    browser.choose("#file-of-found", tmp_path / "a.png")
    card = CARD.replace("'digits'", "'found'")
    browser.js(f"{card}.querySelector('button').click()")
    browser.wait(f"{card}.querySelector('[data-is=top]').innerText.includes('all (0)')")
    marked = f"{card}.querySelector('[data-is=marked]')"
    browser.wait(f"{marked}.width === 160")
    pixel = "[...{0}.getContext('2d').getImageData({1}, {2}, 1, 1).data]"
    assert browser.js(f"[{marked}.width, {marked}.height, {marked}.hidden]") == [160, 80, False]
    assert browser.js(pixel.format(marked, 20, 60)) == [0, 0, 0, 255]
    red, green, blue, _ = browser.js(pixel.format(marked, 40, 60))
    assert blue > 100 > red and (red, green, blue) != tuple(browser.js(pixel.format(marked, 1, 60))[:3])
    assert WEIRD in browser.js(f"{marked}.ariaLabel") and browser.js("window.harmed ?? 0") == 0
    for kind, part in (("curl", "--data-binary @image.jpg"), ("python", "urllib.request.urlopen(request)")):
        browser.js(f"{card}.querySelector('[data-is=copy-{kind}]').click()")
        browser.wait(f"{card}.querySelector('[data-is=code]').innerText.includes({json.dumps(part)})")
    assert f"http://{server.http}/v2/models/found/infer" in browser.js(
        f"{card}.querySelector('[data-is=code]').innerText"
    )
    assert [text for text in browser.console if "Canvas2D" not in text] == []  # the test reads pixels back


@in_a_browser
def test_people_send_tensors(
    start: Callable[..., Any], make: Callable[..., Path], browser: Any, tmp_path: Path
) -> None:
    """Given a model without images -> a request of zeros to edit and send; what comes back is shown, or why not."""
    make(tmp_path / "models" / "digits")
    server = start(tmp_path / "models", "--access-log", "none")
    browser.open(f"http://{server.http}/")
    browser.wait(f"!!{CARD}")
    assert browser.js(in_card("[data-is=try]", "textContent")) == "Try a request"
    request = json.loads(browser.js(in_card("textarea", "value")))
    assert request["inputs"][0]["shape"][0] == 1 and set(request["inputs"][0]["data"]) == {0}
    browser.js(in_card("[data-is=json-button]", "click()"))
    browser.wait(f"{in_card('[data-is=raw]')}.startsWith('y FP32 [1')")
    browser.js(in_card("textarea", "value = '{'"))
    browser.js(in_card("[data-is=json-button]", "click()"))
    browser.wait(in_card("[data-is=error]"))
    assert browser.js(in_card("[data-is=answer]", "hidden"))


@in_a_browser
def test_percentiles_are_of_what_was_measured(server: Any, browser: Any) -> None:
    """Given one request of 2.0 s, and ten of which one is beyond every bucket -> no percentile is above the longest."""
    browser.open(f"http://{server.http}/")
    browser.wait(f"!!{CARD}")
    for counts, largest, total, most in (({12: 1}, 2.0, 2.0, "2.00"), ({3: 9, 15: 1}, 40.0, 40.02, "40.0")):
        bucket = max(counts)
        browser.js(
            "(async () => { const there = window.there ??= window.fetch;"
            "const state = await (await there('ui/state')).json();"
            "const request = {edges: [.0005,.001,.002,.005,.01,.02,.05,.1,.2,.5,1,2,5,10,30]};"
            f"const counts = {json.dumps(counts)}; let below = 0;"
            "request.counts = Array.from({length: 16}, (_, i) => (below += counts[i] ?? 0));"
            f"request.largest = Array(16).fill(.004); request.largest[{bucket}] = {largest}; request.sum = {total};"
            "state.models.find((each) => each.name === 'digits').counts.request = request;"
            "window.fetch = async () => new Response(JSON.stringify(state)); })()"
        )
        browser.js("document.querySelector('input[value=start]').click()")
        place = in_card("[data-is=latency]", "closest('dl').children")
        shown = f"[...{place}].map((each) => each.querySelector('dd').innerText)"
        browser.wait(f"{shown}[3] !== '–'")
        browser.wait(f"parseFloat({shown}[2].slice(2)) <= {most} && {shown}[2].endsWith('s') && {shown}[2] > '≈ 1'")
        assert float(re.fullmatch(r"≈ ([\d.]+)s", browser.js(f"{shown}[2]"))[1]) <= float(most)
    browser.js("window.fetch = window.there")


@in_a_browser
def test_people_see_nothing_while_they_look_elsewhere(server: Any, browser: Any) -> None:
    """Given a page in the background -> it asks nothing, until it is looked at again."""
    browser.open(f"http://{server.http}/")
    browser.js("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    browser.js("document.dispatchEvent(new Event('visibilitychange'))")
    browser.js("new Promise((done) => setTimeout(done, 1500))")  # what was under way is answered
    before = len(browser.asked)
    browser.js("new Promise((done) => setTimeout(done, 2500))")
    assert len(browser.asked) == before
    browser.js("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
    browser.js("document.dispatchEvent(new Event('visibilitychange'))")
    end = time.monotonic() + page_browser.LONG_S
    while len(browser.asked) < before + 2:
        assert time.monotonic() < end
        browser.js("1")


@in_a_browser
def test_people_give_a_token_once(start: Callable[..., Any], store: Path, browser: Any, tmp_path: Path) -> None:
    """Given a server that wants a token -> the page asks for it, keeps it for this tab, and sends it as a header."""
    server = start(store, "--token-file", token_file(tmp_path), "--access-log", "none")
    give = "document.getElementById('token').value = '{}'; document.querySelector('#sign-in button').click()"
    browser.open(f"http://{server.http}/")
    browser.wait("!document.getElementById('sign-in').hidden")
    assert browser.text("#health") == "token wanted" and not browser.js("document.querySelector('article')")
    browser.js(give.format("another-token-than-the-right-one"))
    browser.wait("document.getElementById('sign-in-error').innerText === 'That is not this server\\'s token.'")
    browser.js(give.format(TOKEN))
    browser.wait(f"!!{CARD}")
    assert browser.js("document.getElementById('sign-in').hidden")
    browser.open(f"http://{server.http}/")
    browser.wait(f"!!{CARD}")
    assert browser.js("document.getElementById('sign-in').hidden")
    assert browser.js("[localStorage.length, document.cookie]") == [0, ""]
    assert not any(TOKEN in address for address in browser.asked)
    assert [text for text in browser.console if "401" not in text] == []


@in_a_browser
def test_people_read_the_report(
    start: Callable[..., Any], make: Callable[..., Path], browser: Any, tmp_path: Path
) -> None:
    """Given a report -> a link to it; where a token is wanted the page fetches it, and saves it as a file."""
    bundle = make(tmp_path / "models" / "digits")
    text = report(bundle, Bundle.open(bundle).sha256)
    link = in_card("[data-is=report]", "href")
    server = start(tmp_path / "models", "--access-log", "none")
    browser.open(f"http://{server.http}/")
    browser.wait(f"!!{CARD}")
    browser("Page.navigate", url=browser.js(link))
    browser.wait("document.body?.innerText.startsWith('Bundle ')")
    assert browser.js("getComputedStyle(document.querySelector('p')).color") == "rgb(255, 0, 0)"
    assert browser.js("document.title") == "" and any("Blocked script" in said for said in browser.console)
    browser.console.clear()
    server = start(tmp_path / "models", "--token-file", token_file(tmp_path), "--access-log", "none")
    browser("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
    browser.open(f"http://{server.http}/")
    browser.js(f"document.getElementById('token').value = '{TOKEN}'")
    browser.js("document.querySelector('#sign-in button').click()")
    browser.wait(f"!!{CARD}")
    browser.js(in_card("[data-is=report]", "click()"))
    saved, end = tmp_path / "saved" / "digits.html", time.monotonic() + page_browser.LONG_S
    while not saved.exists():
        assert time.monotonic() < end and browser.js("1")
    assert saved.read_bytes() == text
    assert [said for said in browser.console if "401" not in said] == []


@in_a_browser
def test_people_see_that_the_server_ends(start: Callable[..., Any], store: Path, browser: Any) -> None:
    """Given a server that drains, and then one that is gone -> the page says so."""
    server = start(store, "--access-log", "none")
    browser.open(f"http://{server.http}/")
    browser.wait(f"!!{CARD}")
    browser.js(
        "(async () => { const state = await (await fetch('ui/state')).json(), there = window.fetch;"
        "window.fetch = async () => new Response(JSON.stringify({...state, ready: false, draining: true}));"
        "window.restore = () => { window.fetch = there; }; })()"
    )
    browser.wait("document.getElementById('health').innerText === 'live, draining'")
    assert browser.js(in_card("[data-is=health]")) == "draining"
    browser.js("restore()")
    browser.wait("document.getElementById('health').innerText === 'live and ready'")
    assert server.stop() == 0
    browser.wait("document.getElementById('health').innerText === 'not reachable'")
    assert browser.js(in_card("[data-is=health]")) == "unknown"
