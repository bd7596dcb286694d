"""Chromium without a screen, driven through a pair of pipes. It reaches no host but this one."""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

LONG_S = 60.0
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1180,1000",
)


class Browser:
    """One tab. It remembers every address it asked for, and whatever went to its console."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        start = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", start, str(BROWSER), *FLAGS, *as_root, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._received, self._session = itertools.count(1), b"", ""
        self.asked: list[str] = []
        self.console: list[str] = []
        pages = [each for each in self("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        target = pages[0]["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> Any:
        """The result of a command of the DevTools protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def js(self, expression: str) -> Any:
        """The value of an expression in the page, once that is there."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The first value of the expression that is something."""
        end = time.monotonic() + LONG_S
        while not (value := self.js(expression)):
            assert time.monotonic() < end, (expression, self.js("document.body.innerText"), self.console)
            time.sleep(0.05)
        return value

    def text(self, selector: str) -> str:
        """What is to be read there."""
        return str(self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    def open(self, address: str) -> None:
        """Go there, and wait until the page knows the server's state or asks for the token."""
        self("Page.navigate", url=address)
        self.wait("document.getElementById('health')?.textContent.match(/live|token/)?.[0]")

    def choose(self, selector: str, file: Path) -> None:
        """Put a file into a form."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        taken = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError, AssertionError):
            self._session = ""
            self("Browser.close")
        try:
            self._process.wait(LONG_S)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._in)
            os.close(self._out)

    def _next(self) -> Any:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._in], [], [], LONG_S)
            chunk = os.read(self._in, 1 << 16) if ready else b""
            assert chunk, "the browser says nothing"
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Any) -> None:
        method, said = event.get("method", ""), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.asked.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.console.append(said["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif method == "Runtime.consoleAPICalled":
            self.console.append(json.dumps(said["args"]))
        elif method == "Log.entryAdded":
            self.console.append(said["entry"]["text"])
