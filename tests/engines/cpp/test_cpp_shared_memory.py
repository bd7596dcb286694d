"""`bundle-serve --shared-memory`: what the Python server is tested for, over both protocols."""

import json
import subprocess

import pytest
from cpp_server import not_here, running
from serving_bundles import make_bundle
from shared_memory_checks import *  # noqa: F403 - the tests that the Python server passes


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("models") / "open")


@pytest.fixture(scope="module")
def shared(program, bundle):
    """A server that offers shared memory, and has no more room than for the largest request."""
    done = subprocess.run([program("bundle-serve"), "--version"], capture_output=True, text=True, check=True)
    if "without gRPC" in done.stdout:
        not_here("bundle-serve was built without gRPC")
    options = ("--shared-memory", "--access-log", "none", "--max-body", 1, "--max-pending", 1, "--grpc-port", 0)
    with running(program, bundle, *options) as server:
        assert server.grpc, server.lines
        yield server


def test_a_server_that_does_not_offer_it(program, bundle):
    """Given bundle-serve without --shared-memory -> 403, and metadata does not list it."""
    with running(program, bundle, "--access-log", "none") as server:
        for method, path in (("POST", "region/r/register"), ("POST", "unregister"), ("GET", "status")):
            status, _, body = server.ask(method, f"/v2/systemsharedmemory/{path}", "{}" if method == "POST" else None)
            said = {"error": "this server does not offer shared memory; start it with --shared-memory"}
            assert (status, json.loads(body)) == (403, said)
        assert b"system_shared_memory" not in server.ask("GET", "/v2")[2]
