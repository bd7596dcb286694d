"""The recipe's build steps in a clean Debian root, and the servers from it: as any user, over a root that is read-only.

No container engine is needed, but root, debootstrap and Debian's packages are.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ASSETS, ROOT

from plainconv import engines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("debootstrap"), reason="needs root and debootstrap"),
]
DEBIAN = "http://deb.debian.org/debian"
RECIPE = ROOT / "engines/kubernetes"
TOKEN = "0123456789abcdef"
SERVE = """
set -eu
mount --bind "$1" "$1" && mount --bind "$2" "$1/models/v6" && mount -o remount,bind,ro "$1"
mount -t tmpfs tmpfs "$1/tmp" && mount -t proc proc "$1/proc"
root=$1 && shift 2
exec chroot --userspec=1000:1000 "$root" env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp "$@"
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "digits"
    checkpoint = ASSETS / "vanillanet_digits.pth"
    command = [sys.executable, "-m", "plainconv.exporter", "export", "vanillanet_digits", "--checkpoint", checkpoint]
    subprocess.run([*command, "-o", out, "--quiet"], check=True)
    return out


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian 12 as the recipe begins with, this machine's certificates and name servers, and what the pod mounts."""
    root = tmp_path_factory.mktemp("debian") / "root"
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root, DEBIAN], check=True, capture_output=True)
    shutil.copy("/etc/resolv.conf", root / "etc")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "tmp/certificates.pem")
    (root / "models/v6").mkdir(parents=True)
    (root / "etc/plainconv").mkdir()
    (root / "etc/plainconv/token").write_text(TOKEN)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def clean(debian: Path, tmp_path: Path) -> Iterator[Any]:
    """Makes such roots, which end with the test."""
    made: list[Path] = []

    def root(name: str) -> Path:
        made.append(tmp_path / name)
        subprocess.run(["cp", "-a", debian, made[-1]], check=True)
        return made[-1]

    yield root
    for each in made:
        shutil.rmtree(each)


def build(root: Path, *arguments: str) -> None:
    shutil.copy(RECIPE / "build.sh", root / "tmp")
    environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PIP_CERT=/tmp/certificates.pem"]
    command = ["chroot", root, "env", "-i", *environment, "sh", "/tmp/build.sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (root / "tmp/build.sh").unlink()


def size_of(root: Path) -> int:
    """MiB on disk, without what the package manager fetched."""
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    return int(subprocess.run(["du", "-sm", root], capture_output=True, text=True, check=True).stdout.split()[0])


def words(stage: str, instruction: str) -> list[str]:
    """The words of an instruction of a stage, in its JSON form."""
    recipe = (
        (RECIPE / "Dockerfile").read_text().replace("\\\n", "").partition(f" AS {stage}\n")[2].partition("FROM ")[0]
    )
    found = re.search(rf"^{instruction} .*?(\[.*\])$", recipe, re.MULTILINE)
    assert found, (stage, instruction)
    said: list[str] = json.loads(found[1])
    return said


@contextmanager
def serving(root: Path, bundle: Path, port: int, stage: str) -> Iterator[subprocess.Popen[str]]:
    """The server of a stage as inference-service.yaml starts it, but for the ports, once it is ready."""
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load((RECIPE / "inference-service.yaml").read_text())
    [container] = service["spec"]["predictor"]["containers"]
    ports = (f"--http-port={port}", f"--grpc-port={port + 1}")
    command = [*words(stage, "ENTRYPOINT"), *container["args"], *ports]
    starting = ["unshare", "--mount", "sh", "-c", SERVE, "sh", str(root), str(bundle), *command]
    server = subprocess.Popen(starting, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=4)
                break
            except OSError:
                assert server.poll() is None, server.stderr and server.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield server
    finally:
        server.kill()
        server.wait()
        if server.stderr:
            server.stderr.close()


def ask(port: int, body: bytes, kind: str) -> Any:
    """The answer over REST."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/v6/infer", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def over_grpc(port: int, image: np.ndarray) -> np.ndarray:
    """The answer over gRPC."""
    triton = pytest.importorskip("tritonclient.grpc")
    tensor = triton.InferInput("input", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        given = client.infer("v6", [tensor], headers={"authorization": f"Bearer {TOKEN}"}, client_timeout=30)
    found: np.ndarray = given.as_numpy(given.get_response().outputs[0].name)
    return found


def jpeg() -> bytes:
    """A file of a picture."""
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    Image.fromarray(pixels).resize((400, 480), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def check(root: Path, bundle: Path, port: int, stage: str) -> None:
    """Tensors over both protocols and a picture are answered as here; it is healthy; told to end, it does."""
    with engines.load(bundle, engine="onnxruntime") as network:
        spec = network.inputs[0]
        image = np.random.default_rng(0).random([n if isinstance(n, int) else 1 for n in spec.shape], np.float32)
        wanted = network({spec.name: image})[network.outputs[0].name]
        seen = [each.as_json() for each in network.predict(jpeg())]
    tensor = {"name": "input", "shape": image.shape, "datatype": "FP32", "data": image.ravel().tolist()}
    with serving(root, bundle, port, stage) as server:
        answer = ask(port, json.dumps({"inputs": [tensor]}).encode(), "application/json")
        np.testing.assert_allclose(answer["outputs"][0]["data"], wanted.ravel(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(over_grpc(port + 1, image), wanted, rtol=1e-4, atol=1e-4)
        found = ask(port, jpeg(), "image/jpeg")["predictions"]
        assert [each["label"] for each in found] == [each["label"] for each in seen]
        np.testing.assert_allclose([each["score"] for each in found], [each["score"] for each in seen], atol=1e-4)
        checking = [word.replace("8080", str(port)) for word in words(stage, "HEALTHCHECK")]
        assert subprocess.run(["chroot", root, *checking], check=False, capture_output=True).returncode == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert subprocess.run(["chroot", root, *checking], check=False, capture_output=True).returncode != 0


def test_the_python_server(clean: Any, tmp_path: Path, bundle: Path) -> None:
    """Given the steps of stage `python`, without a GPU's packages -> no torch in it, and it serves."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    root = clean("python")
    wheel = Path(shutil.copy(next(tmp_path.glob("plainconv-*.whl")), root / "tmp"))
    build(root, "python", f"/tmp/{wheel.name}", "serve,cpu")
    wheel.unlink()
    packages = {path.name for path in (root / "opt/plainconv/lib/python3.11/site-packages").iterdir()}
    assert "plainconv" in packages and not packages & {"torch", "onnxscript", "onnx_graphsurgeon", "polygraphy"}
    assert size_of(root) < 1000
    check(root, bundle, 8390, "python")


def test_the_cpp_server(clean: Any, bundle: Path) -> None:
    """Given the steps of stages `cpp-build` and `cpp` -> the program, ONNX Runtime and the libraries that they need."""
    building = clean("building")
    made = shutil.ignore_patterns("build", "__pycache__")
    shutil.copytree(ROOT / "engines", building / "tmp/src/engines", ignore=made)
    (building / "tmp/src/exporter").mkdir()
    shutil.copy(ROOT / "exporter/version.py", building / "tmp/src/exporter")
    build(building, "cpp", "/tmp/src")
    root = clean("cpp")
    for copied in re.findall(r"^COPY --from=cpp-build /(\S+) ", (RECIPE / "Dockerfile").read_text(), re.MULTILINE):
        shutil.copy(building / copied, root / copied)
    build(root, "libraries")
    needs = subprocess.run(
        ["chroot", root, "ldd", "/usr/local/bin/bundle-serve"], capture_output=True, text=True, check=True
    )
    assert "libonnxruntime" in needs.stdout and "not found" not in needs.stdout
    assert size_of(root) < 400
    check(root, bundle, 8392, "cpp")
