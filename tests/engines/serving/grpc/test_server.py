"""gRPC, against a server in a process of its own."""

from grpc_checks import *  # noqa: F403 - the tests, which the server in C++ has to pass as well
