"""KServe's SDK with a bundle behind it, in a process of its own: its protobuf and Triton's do not mix."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LONG_S = 60.0
PROGRAM = """
import asyncio, logging, sys
sys.argv = ["program", "--http_port", "no number", "--unknown"]
handlers = list(logging.getLogger().handlers)
from plainconv.engines.serving import kserve_parts
from plainconv.exporter.version import __version__
from plainconv.engines.serving.rest import codec as rest_codec
assert sys.argv == ["program", "--http_port", "no number", "--unknown"]
assert logging.getLogger().handlers == handlers

from dataclasses import replace
from pathlib import Path
from plainconv.engines.serving.metrics import Metrics
from plainconv.engines.serving.model import open_model
from plainconv.engines.serving.options import ServeOptions
from plainconv.engines.serving.places import places_of
from plainconv.engines.serving.refusals import ForbiddenError, UnavailableError, UnknownError
from plainconv.engines.serving.service import Service
from plainconv.engines.serving.store import Store

options = ServeOptions(engine="onnxruntime", threads=1)
store = Store(places_of(Path("{folder}"), "b"), lambda name, folder: open_model(folder, options))
service = Service(store, options, Metrics())
plane = kserve_parts.BundlePlane(service)
extension = kserve_parts.RepositoryExtension(plane, service)
run = asyncio.run

def refused(error, work):
    try:
        run(work)
    except error as said:
        return str(said)
    raise AssertionError(f"{{error.__name__}} was not raised")

assert not run(plane.ready()) and run(plane.live()) == {{"status": "alive"}}
assert "no model" in refused(UnknownError, plane.get_model("b"))
store.load_all()
assert run(plane.ready()) and run(plane.model_ready("b"))
assert "no model" in refused(UnknownError, plane.model_ready("../b"))
described = run(plane.model_metadata("b"))
assert described["inputs"] == [{{"name": "x", "datatype": "FP32", "shape": [-1, 4]}}], described
assert described["outputs"] == [{{"name": "y", "datatype": "FP32", "shape": [-1, 2]}}], described
extensions = ["binary_tensor_data", "model_configuration", "statistics"]
assert plane.metadata() == {{"name": "plainconv", "version": __version__, "extensions": extensions}}

body = b'{{"id": "r", "inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}}]}}'
request, _ = plane.decode(memoryview(body), {{}})
response, _ = run(plane.infer("b", request))
pieces, headers = plane.encode("b", response, {{}}, {{}})
assert headers == {{"content-type": "application/json"}} and b'"data":[3.0,7.0]' in b"".join(pieces)
response, _ = run(plane.infer("b", replace(request, binary=True)))
pieces, headers = plane.encode("b", response, {{}}, {{}})
assert int(headers[rest_codec.HEADER_LENGTH]) == len(pieces[0]) and len(pieces[1]) == 8

for work in (extension.index(), extension.load("b"), extension.unload("b")):
    assert "does not offer" in refused(ForbiddenError, work)
service.options = replace(options, repository=True)
assert plane.metadata()["extensions"][3:] == ["model_repository"]
assert run(extension.unload("b")) == {{"name": "b", "unload": True}}
assert "unloaded" in refused(UnavailableError, plane.get_model("b")) and not run(plane.model_ready("b"))
assert run(extension.index(True)) == [] and run(extension.index())[0]["state"] == "UNAVAILABLE"
assert run(extension.load("b")) == {{"name": "b", "load": True}}
assert run(extension.index(True))[0]["name"] == "b"
kserve_parts.register_metrics(service.metrics.registry)
assert b"request_predict_seconds" in service.metrics.text()
store.close()
print("done")
"""


def test_in_its_own_process(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given the parts -> they answer as the protocol says, importing them changes nothing, and nothing is warned of."""
    if importlib.util.find_spec("kserve") is None:
        pytest.skip("needs the server's libraries: pip install 'plainconv[serve]'")
    program = PROGRAM.format(folder=make(tmp_path / "b"))
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
