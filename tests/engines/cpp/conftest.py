"""Builds engines/cpp once, where this machine can; makes bundles for it."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cpp_server import not_here
from places import ASSETS, ROOT

from plainconv.exporter.cli.main import main

SOURCE = ROOT / "engines" / "cpp"
PROGRAMS = {"bundle-serve": "libboost1.81-dev or zlib1g-dev"} | dict.fromkeys(
    ("plainconv-tests", "plainconv-tests-tensorrt", "plainconv-tests-rtx", "serve-tests"), "doctest-dev"
)
"""What is built only where a package is there, besides what all needs."""


def why_not_built():
    """Why engines/cpp cannot be built here; None where it can."""
    missing = [tool for tool in ("cmake", "make", "c++") if shutil.which(tool) is None]
    if missing:
        return f"{missing[0]} is not installed"
    for header, package in {"nlohmann/json.hpp": "nlohmann-json3-dev", "openssl/evp.h": "libssl-dev"}.items():
        words = ["c++", "-x", "c++", "-std=c++20", "-fsyntax-only", "-"]
        if subprocess.run(words, input=f"#include <{header}>\n".encode(), capture_output=True, check=False).returncode:
            return f"{package} is not installed, or c++ has no C++20"
    headers = [SOURCE / "build/onnxruntime/usr/include/onnxruntime", Path("/usr/include/onnxruntime")]
    if not any((folder / "onnxruntime_cxx_api.h").is_file() for folder in headers):
        return "the headers of ONNX Runtime are not there; make cpp gets them"
    return None


def built(folder):
    """The tool and the C++ tests, built in `folder`."""
    options = ["-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"]  # compiled in less time
    options += [f"-DPLAINCONV_PYTHON={sys.executable}"]
    for command in (["cmake", "-S", SOURCE, "-B", folder, *options], ["cmake", "--build", folder, "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


@pytest.fixture(scope="session")
def build():
    """The folder of the build, kept from run to run; processes that test side by side wait for the first.

    Where PLAINCONV_CPP_BUILD names a folder, what was built there is tested as it is: with sanitizers, say.
    """
    if os.environ.get("PLAINCONV_CPP_BUILD"):
        return Path(os.environ["PLAINCONV_CPP_BUILD"])
    reason = why_not_built()
    if reason:
        not_here(reason)
    name = hashlib.sha256(f"{SOURCE} {sys.executable} {os.getuid()}".encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"plainconv-cpp-{name}"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return built(folder)


@pytest.fixture(scope="session")
def program(build):
    """The file of a program of the build, as a function of its name."""

    def find(name):
        if not (build / name).is_file():
            not_here(f"{name} is not built: {PROGRAMS[name]} is not installed")
        return build / name

    return find


@pytest.fixture(scope="session")
def tool(build):
    """`bundle-run`, as a function of its arguments."""

    def run(*arguments):
        command = [build / "bundle-run", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Bundles of the two digits networks: "whole" with a free batch, "split" in parts."""
    folder = tmp_path_factory.mktemp("digits")
    exports = {"whole": ("vanillanet_digits", "--dynamic-batch", "1:2:8"), "split": ("parnet_digits",)}
    for name, (network, *options) in exports.items():
        checkpoint = str(ASSETS / f"{network}.pth")
        words = ["export", network, "--checkpoint", checkpoint, "-o", str(folder / name), "--quiet", *options]
        assert main(words) == 0
    assert main(["split", str(folder / "split"), "--devices", "3", "--force", "--quiet"]) == 0
    return folder
