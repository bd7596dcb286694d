"""A bundle, or a folder of bundles, served over the Open Inference Protocol: REST and gRPC, one queue behind both.

    bytes ─ rest_codec, grpc_codec ─▶ InferRequest ─ checks ─▶ arrays ─ batcher ─▶ backend (a runner in a thread)
                                       service: which model, by when, how many at once; metrics and the access log

KServe's SDK is the server. `kserve_parts` alone imports it, `rest_server` the web server and `grpc_server` gRPC;
`running.serve` imports these when it is called, so that importing this package changes nothing and needs none of them.
"""

from .options import ServeOptions

__all__ = ["ServeOptions"]
