"""The list that is the same for every server of a bundle, against this one."""

import contextlib
import socket
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

LONG_S = 60.0


@pytest.mark.parametrize(("which", "options"), [("CASES", "OPTIONS"), ("LARGE", "LARGE_OPTIONS")])
def test_cases(run_server: Any, cases: Any, tmp_path: Path, which: str, options: str) -> None:
    """Given each request of the list -> its answer, and after each a good one is answered."""
    folder = cases.write_tiny(tmp_path / "bundle")
    words = [text for key, value in getattr(cases, options).items() for text in (f"--{key}", value)]
    problems = []
    good = cases.CASES[0]
    with run_server(folder, *words, "--access-log", "none") as tiny:
        assert tiny.http, tiny.lines
        for case in getattr(cases, which):
            said = cases.wrong(case, *ask(tiny.http, case, cases)) or cases.wrong(good, *ask(tiny.http, good, cases))
            problems += [f"{case['name']}: {said}"] if said else []
    assert not problems, "\n".join(problems)


def test_an_answer_is_checked(cases: Any) -> None:
    """Given answers that differ from what a case wants -> what is wrong is said."""
    case = {"status": 400, "error": "^no .* here$"}
    assert not cases.wrong(case, 400, {}, b'{"error": "no input here"}')
    assert "status 500, wanted" in cases.wrong(case, 500, {}, b"")
    for body in (b'{"error": "another"}', b'{"error": "no input here", "trace": 1}', b'{"error": "no\\ninput here"}'):
        assert "wanted only error" in cases.wrong(case, 400, {}, body)
    case = {"status": 200, "answer": {"id": "a"}, "outputs": []}
    assert not cases.wrong(case, 200, {}, b'{"id": "a", "outputs": []}')
    assert "id is None" in cases.wrong(case, 200, {}, b'{"outputs": []}')
    assert "wanted []" in cases.wrong(
        case, 200, {}, b'{"id": "a", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]}'
    )


def ask(address: str, case: dict[str, Any], cases: Any) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of the answer to a case; 0 where there is none."""
    host, _, port = address.rpartition(":")
    body, headers = cases.message_of(case)
    if "raw" in case:
        return _raw(host, int(port), body, ends=200 not in case["status"])
    connection = HTTPConnection(host, int(port), timeout=LONG_S)
    with contextlib.closing(connection):
        connection.request(case["method"], case["path"], body if "body" in case else None, headers)
        return _read(connection.getresponse())


def _raw(host: str, port: int, sent: bytes, *, ends: bool) -> tuple[int, dict[str, str], bytes]:
    with socket.create_connection((host, port), timeout=LONG_S) as connection:
        with contextlib.suppress(OSError):  # closed before all of it was sent
            connection.sendall(sent)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        response = HTTPResponse(connection)
        try:
            response.begin()
            return _read(response)
        except ConnectionError:  # that there is no answer at all is one of them
            return 0, {}, b""


def _read(response: HTTPResponse) -> tuple[int, dict[str, str], bytes]:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, headers, response.read()
