"""The recipe's build steps in a clean Debian root, and the servers from it: as any user, over a root that is read-only.

No container engine is needed, but root, debootstrap and Debian's packages are.
"""

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
SERVE = """
set -eu
mount --bind "$1" "$1" && mount --bind "$2" "$1/models" && mount -o remount,bind,ro "$1"
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


def clean_root(folder: Path) -> Path:
    """A Debian 12 as the recipe begins with, with this machine's certificates and name servers."""
    root = folder / "root"
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root, DEBIAN], check=True, capture_output=True)
    shutil.copy("/etc/resolv.conf", root / "etc")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "tmp/certificates.pem")
    (root / "models").mkdir()
    return root


def build(root: Path, *arguments: str) -> None:
    shutil.copy(ROOT / "engines/kubernetes/build.sh", root / "tmp")
    environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PIP_CERT=/tmp/certificates.pem"]
    command = ["chroot", root, "env", "-i", *environment, "sh", "/tmp/build.sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def size_of(root: Path) -> int:
    """MiB on disk."""
    return int(subprocess.run(["du", "-sm", root], capture_output=True, text=True, check=True).stdout.split()[0])


@contextmanager
def serving(root: Path, bundle: Path, port: int, *command: str) -> Iterator[subprocess.Popen[str]]:
    """The server as the container starts it, once it is ready."""
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


def label(port: int, image: np.ndarray) -> int:
    """The class of an image."""
    tensor = {"name": "input", "shape": image.shape, "datatype": "FP32", "data": image.ravel().tolist()}
    data = json.dumps({"inputs": [tensor]})
    url = f"http://127.0.0.1:{port}/v2/models/digits/infer"
    with urllib.request.urlopen(urllib.request.Request(url, data.encode()), timeout=30) as answer:
        logits = json.load(answer)["outputs"][0]["data"]
    assert len(logits) == 10
    return logits.index(max(logits))


def check(root: Path, bundle: Path, port: int, *command: str) -> None:
    with engines.load(bundle, engine="onnxruntime") as network:
        spec = network.inputs[0]
        image = np.random.default_rng(0).random([n if isinstance(n, int) else 1 for n in spec.shape], np.float32)
        wanted = int(network({spec.name: image})[network.outputs[0].name].argmax())
    with serving(root, bundle, port, *command) as server:
        assert label(port, image) == wanted
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_the_python_server(tmp_path: Path, bundle: Path) -> None:
    """Given the steps of stage `python`, without a GPU's packages -> no torch in it, and it serves."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    root = clean_root(tmp_path)
    wheel = shutil.copy(next(tmp_path.glob("plainconv-*.whl")), root / "tmp")
    build(root, "python", f"/tmp/{Path(wheel).name}", "serve,cpu")
    packages = {path.name for path in (root / "opt/plainconv/lib/python3.11/site-packages").iterdir()}
    assert "plainconv" in packages and not packages & {"torch", "onnxscript", "onnx_graphsurgeon", "polygraphy"}
    assert size_of(root) < 1000
    command = ("exporter", "serve", "/models", "--name=digits", "--http-port=8390", "--grpc-port=8391")
    check(root, bundle, 8390, *command)


def test_the_cpp_server(tmp_path: Path, bundle: Path) -> None:
    """Given the steps of stages `cpp-build` and `cpp` -> the program alone, in a Debian that has OpenSSL's library."""
    building = clean_root(tmp_path / "building")
    made = shutil.ignore_patterns("build", "__pycache__")
    shutil.copytree(ROOT / "engines", building / "tmp/src/engines", ignore=made)
    build(building, "cpp", "/tmp/src")
    root = clean_root(tmp_path / "serving")
    shutil.copytree(building / "usr/local/bin", root / "usr/local/bin", dirs_exist_ok=True)
    recipe = (ROOT / "engines/kubernetes/Dockerfile").read_text()
    libraries = re.findall(r"no-install-recommends (.*?) &&", recipe.rpartition("AS cpp\n")[2])
    assert libraries
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *libraries[0].split()]
    subprocess.run(["chroot", root, *install], check=True, capture_output=True)
    assert size_of(root) < 400
    check(root, bundle, 8392, "bundle-serve", "/models", "--name=digits", "--http-port=8392")
