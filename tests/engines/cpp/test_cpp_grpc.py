"""`bundle-serve` over gRPC: what the Python server is tested for, the shared list as messages, and its end."""

import subprocess

import pytest
from cpp_server import not_here, running
from grpc_checks import *  # noqa: F403 - the tests that the Python server passes
from serving_bundles import make_bundle


@pytest.fixture(scope="module")
def start(program):
    """Starts `bundle-serve`, as a function of its arguments, where it was built with gRPC."""
    done = subprocess.run([program("bundle-serve"), "--version"], capture_output=True, text=True, check=True)
    if "without gRPC" in done.stdout:
        not_here(
            "bundle-serve was built without gRPC: libgrpc++-dev, libprotobuf-dev or protobuf-compiler is not installed"
        )
    return lambda *arguments: running(program, *arguments)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two bundles: `open`, whose batch is open, and `one`, of batch 1."""
    folder = tmp_path_factory.mktemp("models")
    make_bundle(folder / "open")
    make_bundle(folder / "one", batch=1, scale=2.0)
    return folder


@pytest.fixture(scope="module")
def server(start, store):
    options = ("--repository-api", "--access-log", "none", "--max-body", "1", "--max-batch", "8")
    with start(store, *options, "--grpc-port", "0") as started:
        assert started.grpc, started.lines
        yield started
