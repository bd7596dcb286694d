"""Requests that nobody means to send, for both protocols, and what may be answered to them. No test by itself.

The models are those of conftest: `open` and `one` take x FP32[N, 4] and give y FP32[N, 2]. What is drawn here starts
from what is right and departs from it: a value of the JSON becomes another, a tensor's bytes end too early, a bit of a
message flips. What has nothing right about it is refused at the first byte and finds little.
"""

import json
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

LONG_S = 60.0  # what no answer takes: a wait of so long is a hang
GOOD = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
X = np.array([[1, 2, 3, 4]], np.float32)
GOOD_ANSWER = {"open": [3, 7], "one": [6, 14]}
REST_STATUSES = {200, 400, 404, 405, 413, 431}
GRPC_CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
TIMED_OUT = {504, "DEADLINE_EXCEEDED"}  # where the request itself says that it has no time
_TELLTALE = re.compile(r"Traceback|File \"|\.py\b|site-packages|/tmp|/home|/root|0x[0-9a-f]{6}")
_MOST_SAID = 1000

DATATYPES = ("BOOL", "UINT8", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES", "fp32", "", "FP3")
_SIZES = st.sampled_from([0, 1, 2, 4, 8, 9, -1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, -(2**63), 10**30])
_ODD_NUMBERS = st.sampled_from([0.5, 1e308, -1e400, 1e-320, 4.0, float(2**53)])
_ODD_TEXT = st.sampled_from(["", "x", "y", "open", "../one", "a\0b", "\ud7ff", "\U0001f600", "x" * 2000, "%00", "\r\n"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | _SIZES | _ODD_NUMBERS | _ODD_TEXT | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_ODD_TEXT, inner, max_size=3),
    max_leaves=8,
)


def json_text(value: object) -> bytes:
    """JSON as Python writes it: with NaN, Infinity and numbers of any length, which JSON does not have."""
    return json.dumps(value).encode()


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """`value`, a JSON value, with something in it left out, put in twice, put under another name or made another."""
    path, at = [], value
    while isinstance(at, (dict, list)) and at and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        path.append(key)
        at = at[key]
    if not path:
        return draw(ANYTHING)
    copy = json.loads(json.dumps(value))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    how = draw(st.sampled_from(["other", "other", "other", "out", "twice", "renamed", "deep"]))
    if how == "out":
        del holder[path[-1]]
    elif how == "twice" and isinstance(holder, list):
        holder *= draw(st.sampled_from([2, 300]))
    elif how == "renamed" and isinstance(holder, dict):
        holder[draw(_ODD_TEXT)] = holder.pop(path[-1])
    elif how == "deep":
        for _ in range(draw(st.sampled_from([1, 40, 800]))):
            at = [at]
        holder[path[-1]] = at
    else:
        holder[path[-1]] = draw(ANYTHING)
    return copy


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with up to four bytes or stretches flipped, left out, put in or repeated."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
        how = draw(st.sampled_from(["flip", "out", "in", "again", "end"]))
        if how == "flip":
            middle = bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at : at + 1])
            data = data[:at] + middle + data[at + 1 :]
        elif how == "out":
            data = data[:at] + data[at + length :]
        elif how == "in":
            data = data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
        elif how == "again":
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        else:
            data = data[:at]
    return data


@dataclass(frozen=True)
class Http:
    """A request: its method, path, headers beyond those of its length, and body."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def bytes(self) -> bytes:
        """As it is sent, asking for the connection's end."""
        head = [f"{self.method} {self.path} HTTP/1.1", "host: x", "connection: close"]
        head += [f"content-length: {len(self.body)}", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*head, "", ""]).encode("latin-1", "replace") + self.body


_TENSOR = {"name": "x", "datatype": "FP32", "shape": [2, 4]}
_OUTPUTS = [{"name": "y", "parameters": {"binary_data": True}}]
_NUMBERS = {"inputs": [_TENSOR | {"data": [1, 2, 3, 4, 5, 6, 7, 8]}], "outputs": _OUTPUTS, "id": "i"}
_BINARY = {"inputs": [_TENSOR | {"parameters": {"binary_data_size": 32}}], "parameters": {"timeout": 0}}
_EMPTY = {"inputs": [_TENSOR | {"shape": [0, 4], "data": []}]}
_BYTES = struct.pack("<8f", 1, 2, 3, float("nan"), 5, float("inf"), 1e-45, -0.0)
_LENGTH = "inference-header-content-length"
_HEADERS = st.tuples(
    st.sampled_from(["content-type", "accept", "content-encoding", "authorization", _LENGTH, "expect", "x", "cookie"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12)
    | st.sampled_from(["identity", "gzip", "application/json", "100-continue", "*/*", "-1", "0", "9" * 20, "²", "1e3"]),
)
_PATHS = st.sampled_from(["open", "one", "none", "..", "%2e%2e", "open%00", "%ff", "a" * 300, "open/versions/1", ""])
_GET_PATHS = ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/open", "/v2/models/open/ready")


EMPTY_AND_HUGE = Http(
    "POST", "/v2/models/open/infer", (), json_text({"inputs": [_TENSOR | {"shape": [0, 2**62], "data": []}]})
)
"""A shape whose sizes multiply to nothing, though NumPy takes none as large."""


@st.composite
def rest_infers(draw: st.DrawFn) -> Http:
    """An inference over REST that departs from a right one in one way or two."""
    is_binary = draw(st.booleans())
    value = _BINARY if is_binary else draw(st.sampled_from([_NUMBERS, _NUMBERS, _NUMBERS, _EMPTY]))
    for _ in range(draw(st.integers(0, 2))):
        value = draw(changed(value)) if isinstance(value, (dict, list)) else value
    head, tail = json_text(value), _BYTES if is_binary else b""
    headers = [(_LENGTH, str(len(head)))] if is_binary else []
    if draw(st.integers(0, 3)) == 0:
        tail = draw(damaged(tail) | st.binary(max_size=40))
    body = head + tail
    if draw(st.integers(0, 3)) == 0:
        body = draw(damaged(body))
    if is_binary and draw(st.integers(0, 3)) == 0:
        headers = [(_LENGTH, str(draw(st.integers(-2, len(body) + 2) | _SIZES)))]
    if draw(st.integers(0, 2)) == 0:
        headers += draw(st.lists(_HEADERS, max_size=3))
    model = "open" if draw(st.integers(0, 5)) else draw(_PATHS)
    return Http("POST", f"/v2/models/{model}/infer", tuple(headers), body)


@st.composite
def rest_others(draw: st.DrawFn) -> Http:
    """Anything else over REST: other paths and methods. `one` alone may be unloaded."""
    name = draw(st.sampled_from(["one", "none", "..", "%2e%2e%2fopen", "..%2fone", "one%00", "%ff%fe", "a" * 200]))
    act = draw(st.sampled_from(["load", "unload", "index", "", "x"]))
    path = draw(
        st.sampled_from([*_GET_PATHS, "/metrics", "/", "/v2/repository/index", f"/v2/repository/models/{name}/{act}"])
        | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(lambda text: "/" + text)
        | st.builds(
            lambda model, rest: f"/v2/models/{model}/{rest}", _PATHS, st.sampled_from(["ready", "infer", "", "x"])
        )
    )
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "get"]))
    body = draw(st.just(b"") | ANYTHING.map(json_text) | st.binary(max_size=20))
    return Http(method, path, tuple(draw(st.lists(_HEADERS, max_size=2))), body)


_WHOLE = Http("POST", "/v2/models/open/infer", (("content-type", "application/json"),), GOOD).bytes
_CHUNKED = (
    b"POST /v2/models/open/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (GOOD[:9], GOOD[9:]))
    + b"0\r\n\r\n"
)
TWO_AND_GONE = _WHOLE.replace(b"connection: close\r\n", b"") + _WHOLE
"""Two requests at once; who half-closes then is gone before the answers."""
HTTP_BYTES = st.one_of(damaged(_WHOLE), damaged(_CHUNKED), damaged(_WHOLE * 3), st.binary(max_size=60))
"""What comes in on the HTTP port, hardly HTTP."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


_FRAMES = st.builds(
    _frame, st.integers(0, 12), st.sampled_from([0, 1, 4, 5, 8, 255]), st.integers(0, 5), st.binary(max_size=40)
)
HTTP2_BYTES = st.one_of(
    st.lists(_FRAMES, max_size=5).map(lambda frames: _PREFACE + _frame(4, 0, 0, b"") + b"".join(frames)),
    damaged(_PREFACE + _frame(4, 0, 0, b"") + _frame(1, 5, 1, b"\x83\x86\x84")),
    damaged(_WHOLE),
    st.binary(max_size=60),
)
"""What comes in on the gRPC port, hardly HTTP/2."""

_TYPED = {
    "bool_contents": st.booleans(),
    "int_contents": st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]),
    "int64_contents": st.sampled_from([0, 1, -(2**63), 2**63 - 1]),
    "uint_contents": st.sampled_from([0, 1, 2**32 - 1]),
    "uint64_contents": st.sampled_from([0, 2**64 - 1]),
    "fp32_contents": st.sampled_from([0.0, 1.5, float("nan"), float("inf"), 1e-45]),
    "fp64_contents": st.sampled_from([0.0, 1e308, float("nan")]),
    "bytes_contents": st.binary(max_size=4),
}
_SHAPES = st.lists(st.sampled_from([0, 1, 2, 4, -1, -4, 2**31, 2**62, 2**63 - 1, -(2**63)]), max_size=4) | st.just(
    [1] * 40
)
_KEYS = st.sampled_from(
    ["timeout", "shared_memory_region", "classification", "sequence_id", "binary_data_size", "", "k"]
)
_VALUES = st.sampled_from(
    [("bool_param", True), ("int64_param", -1), ("int64_param", 2**62), ("string_param", "s"), ("double_param", 0.5)]
)
_NAMES = st.sampled_from(["x", "y", "", "open", "\U0001f600", "n" * 500, "a\nb"])


@st.composite
def grpc_infers(draw: st.DrawFn, messages: Any) -> bytes:
    """A ModelInferRequest in bytes that departs from a right one here and there; `messages` is its class's module."""

    def mostly(right: Any, others: st.SearchStrategy[Any], one_in: int = 8) -> Any:
        return right if draw(st.integers(1, one_in)) < one_in else draw(others)

    request = messages.ModelInferRequest(
        model_name=mostly("open", st.sampled_from(["one", "none", "", "../open", "m" * 300])),
        model_version=mostly("", st.sampled_from(["1", "2", "-1"])),
        id=mostly("", st.sampled_from(["i", "i" * 1025, "\0"])),
    )
    is_raw = draw(st.booleans())
    for _ in range(mostly(1, st.sampled_from([0, 2]))):
        datatype = mostly("FP32", st.sampled_from(DATATYPES))
        tensor = request.inputs.add(name=mostly("x", _NAMES), datatype=datatype, shape=mostly([2, 4], _SHAPES))
        if is_raw:
            request.raw_input_contents.append(mostly(_BYTES, st.binary(max_size=40)))
        if mostly(not is_raw, st.booleans()):
            field = mostly("fp32_contents", st.sampled_from(sorted(_TYPED)))
            numbers = mostly([1.0] * 8 if field == "fp32_contents" else [], st.lists(_TYPED[field], max_size=9))
            getattr(tensor.contents, field).extend(numbers)
        if mostly(False, st.booleans()):
            _set(tensor.parameters[draw(_KEYS)], draw(_VALUES))
    if mostly(False, st.booleans()):
        request.outputs.add(name=draw(st.sampled_from(["y", "y", "x", ""])))
        _set(request.outputs[0].parameters[draw(_KEYS)], draw(_VALUES))
    if mostly(False, st.booleans()):
        _set(request.parameters[draw(_KEYS)], draw(_VALUES))
    if mostly(False, st.booleans()):
        request.raw_input_contents.append(draw(st.binary(max_size=8)))
    for number in range(mostly(0, st.sampled_from([0, 300]))):
        request.inputs.add(name=f"x{number}", datatype="FP32", shape=[1])
    data: bytes = request.SerializeToString()
    return draw(damaged(data)) if mostly(False, st.booleans(), 4) else data


def _set(parameter: Any, value: tuple[str, Any]) -> None:
    setattr(parameter, *value)


METHODS = (
    *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelInfer"),
    *("ModelStreamInfer", "RepositoryIndex", "RepositoryModelLoad", "SystemSharedMemoryStatus", "LogSettings", "", "x"),
)
GRPC_OTHERS = st.tuples(
    st.sampled_from(METHODS),
    st.binary(max_size=40) | damaged(b"\x0a\x04open\x12\x011") | st.sampled_from([b"\x0a\x04open", b"\x12\x03one"]),
)
"""A method and the bytes of its message."""


def exchanged(address: str, data: bytes, half_closed: bool = False) -> bytes:
    """What is answered to `data` until the server closes; `half_closed` says at once that nothing more is sent.

    Raises TimeoutError where it neither answers nor closes.
    """
    host, _, port = address.rpartition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=LONG_S) as connection:
        try:
            connection.sendall(data)
            if half_closed:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass  # closed before all of it was sent
    return received


def rest_problems(request: Http, received: bytes) -> Iterator[str]:
    """What is wrong with an answer to `request`, if anything is."""
    head, _, body = received.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    status = int(head[9:12]) if re.match(rb"HTTP/1\.1 \d{3} ", head) else 0
    if status not in REST_STATUSES and not (status in TIMED_OUT and b"timeout" in request.body):
        yield f"status {status}"
    if status >= 400 and request.method != "HEAD":
        yield from sentence_problems(error_of(body))
    if status == 200 and request.path == "/v2/models/open/infer" and b'"outputs"' not in body:
        yield "200 without outputs"


def grpc_problems(data: bytes, code: str, details: str | None) -> Iterator[str]:
    """What is wrong with the status of a call, if anything is."""
    if code not in GRPC_CODES and not (code in TIMED_OUT and b"timeout" in data):
        yield f"status {code}: {details}"
    elif code not in ("OK", "UNIMPLEMENTED"):  # what is no method is gRPC's own to answer
        yield from sentence_problems(details)


def error_of(body: bytes) -> Any:
    """What an answer that is no result says; None where it is not of the one form."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer["error"] if isinstance(answer, dict) and list(answer) == ["error"] else None


def sentence_problems(sentence: object) -> Iterator[str]:
    """What is wrong with what a sender is told, if anything is."""
    if not isinstance(sentence, str) or not sentence.strip():
        yield f"no sentence: {sentence!r}"
    elif "\n" in sentence or len(sentence) > _MOST_SAID or _TELLTALE.search(sentence):
        yield f"not one useful sentence: {sentence[:_MOST_SAID]!r}"


def statuses_of(received: bytes) -> set[int]:
    """The status of each answer in what a connection gave."""
    return {int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)}


def is_serving(address: str, model: str = "open") -> bool:
    """Whether a good request gets its answer over REST."""
    received = exchanged(address, Http("POST", f"/v2/models/{model}/infer", (), GOOD).bytes)
    body = received.partition(b"\r\n\r\n")[2]
    return received.startswith(b"HTTP/1.1 200") and json.loads(body)["outputs"][0]["data"] == GOOD_ANSWER[model]
