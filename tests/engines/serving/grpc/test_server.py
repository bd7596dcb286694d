"""gRPC, against a server in a process of its own."""

from grpc_checks import *  # noqa: F403 - the tests, which the server in C++ has to pass as well
from serving_bundles import make_bundle


def test_bodies_larger_than_grpc_can_count(start, tmp_path):
    """Given --max-body of 4 GiB -> the server is there: gRPC's own limit is the largest that it has."""
    server = start(make_bundle(tmp_path / "open"), "--max-body", "4096")
    assert server.grpc
