"""What `exporter triton` writes, in a real Triton core on this machine's CPU.

    python -m venv /tmp/core && /tmp/core/bin/pip install nvidia-pytriton onnxruntime
    python tests/benchmarks/triton_core.py --core /tmp/core            # all; 10,000 requests while parts change
    python tests/benchmarks/triton_core.py --core /tmp/core models replaced --requests 1000

The core is nvidia-pytriton's, in an environment of its own and of this Python's version; it has no backend for ONNX
Runtime, so `triton_onnxruntime.py` stands in for it. Configurations, batcher, ensembles and the repository are real.

    models      every model of small bundles, whole and split, is READY, and equals `engines.load` bit for bit
    batch       the batches that an export was asked for are the model's largest
    mounted     a repository that is a mount of its own: without --staging refused; beside a stage, written
    replaced    a split in the place of another under load, then --prune: no request lost, each answer one of the two

Without a core it says so and ends with 0; where a check fails, with 1.
"""

import argparse
import collections
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
import triton_bundles
from serving_client import LONG_S, GrpcClient, free_ports, stop

from plainconv import engines
from plainconv.engines.bench import random_inputs
from plainconv.engines.triton.repository import TritonOptions, write_repository
from plainconv.exporter.bundle import Bundle, update_bundle
from plainconv.exporter.errors import EngineError

POLL_S = 1
CLIENTS = 4
PARTS: Mapping[str, Any] = {"whole": None, "three": triton_bundles.THREE, "five": triton_bundles.FIVE}
_NO_GPU = re.compile("cuda|pinned", re.IGNORECASE)


class Core:
    """A running Triton core."""

    def __init__(self, address: str, http: str) -> None:
        """`address` is gRPC's."""
        self.address, self.http = address, http
        self.client = triton.InferenceServerClient(address)
        self.infer = GrpcClient(address).infer

    def states(self) -> dict[str, str]:
        """The state of each model in the repository."""
        return {model.name: model.state for model in self.client.get_model_repository_index().models}

    def wait(self, done: Any, seconds: float = LONG_S) -> bool:
        """Whether `done()` came to be true in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(triton.InferenceServerException):
                if done():
                    return True
            time.sleep(0.1)
        return False


@contextlib.contextmanager
def core(environment: Path, repository: Path, *options: str) -> Iterator[Core]:
    """The core of that environment on a repository, ready or not; ended with the block."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        site = next(environment.glob("lib/python3*/site-packages"))
        lay_out(site, home)
        libraries = [sys.base_prefix + "/lib", str(site / "nvidia_pytriton.libs")]
        variables = os.environ | {
            "LD_LIBRARY_PATH": ":".join(libraries),
            "PYTHONPATH": str(site),
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        }
        grpc, http = free_ports()
        command = [
            str(home / "bin/tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={home / 'backends'}",
            f"--cache-directory={home / 'caches'}",
            *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc")),
            f"--http-port={http}",
            f"--grpc-port={grpc}",
            "--allow-metrics=false",
            "--strict-readiness=false",
            "--exit-on-error=false",
            *options,
        ]
        with open(home / "log", "wb") as log:
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        try:
            started = Core(f"127.0.0.1:{grpc}", f"127.0.0.1:{http}")
            if not started.wait(started.client.is_server_live):
                raise SystemExit(f"the core does not start: {(home / 'log').read_text()[-2000:]}")
            yield started
            lines = (home / "log").read_text().splitlines()
            said = [line for line in lines if line[:2] in ("W1", "E1", "W0", "E0") and not _NO_GPU.search(line)]
            print(f"  its log has {len(said)} warnings and errors but for the missing GPU", *said[:3], sep="\n    ")
        finally:
            stop(process)


def is_there(environment: Path) -> bool:
    """Whether that environment holds a core."""
    return any(environment.glob("lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver"))


def lay_out(site: Path, home: Path) -> None:
    """Triton's folders, with the backend for ONNX Runtime."""
    given, version = site / "pytriton/tritonserver", f"{sys.version_info[0]}.{sys.version_info[1]}"
    for name in ("bin", "backends", "caches"):
        shutil.copytree(given / name, home / name)
    stub = given / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, home / "backends/python")
    (home / "backends/onnxruntime").mkdir()
    shutil.copy(Path(__file__).with_name("triton_onnxruntime.py"), home / "backends/onnxruntime/model.py")


def models(environment: Path, folder: Path, requests: int) -> list[str]:
    """Every model is READY and gives the runner's bits."""
    made = {}
    for kind, parts in PARTS.items():
        for batch in ("N", 2):
            for data in (False, True):
                name = f"{kind}{batch}{'data' if data else ''}"
                bundle = triton_bundles.make(folder / name, parts, batch, name=name, data=data)
                made[name] = bundle
                options = TritonOptions(name, devices=(), instances=2, max_delay_us=100 if batch == "N" else 0)
                write_repository(bundle, folder / "models", options)
    problems, count = [], 0
    with core(environment, folder / "models") as started:
        started.wait(lambda: set(started.states().values()) == {"READY"})
        states = started.states()
        problems += [f"{name} is {state}" for name, state in states.items() if state != "READY"]
        for name, bundle in made.items():
            with engines.load(bundle, "onnxruntime", threads=1) as runner:
                for rows in (1, 3) if name.endswith(("N", "Ndata")) else (2,):
                    inputs = random_inputs(bundle.inputs, rows)
                    found = started.infer(name, inputs)
                    equal = all(np.array_equal(found[key], array) for key, array in runner(inputs).items())
                    problems += [] if equal else [f"{name} at batch {rows} differs from the runner"]
                    count += 1
    print(f"  {len(states)} models, {list(states.values()).count('READY')} READY; {count} answers compared")
    return problems


def batch(environment: Path, folder: Path, requests: int) -> list[str]:
    """The largest batch is the export's."""
    bundle = triton_bundles.make(folder / "b", triton_bundles.THREE)
    with update_bundle(bundle.folder) as draft:
        draft.manifest.source = {"dynamic_batch": [1, 4, 8]}
    write_repository(Bundle.open(bundle.folder), folder / "models", TritonOptions("net", devices=()))
    with core(environment, folder / "models") as started:
        started.wait(lambda: started.client.is_model_ready("net"))
        most = started.client.get_model_config("net").config.max_batch_size
        started.infer("net", random_inputs(bundle.inputs, 8))
        with contextlib.suppress(triton.InferenceServerException):
            started.infer("net", random_inputs(bundle.inputs, 9))
            return ["9 rows are taken"]
    print(f"  max_batch_size {most} of --dynamic-batch 1:4:8; 8 rows taken, 9 refused")
    return [] if most == 8 else [f"max_batch_size is {most}, wanted 8"]


def mounted(environment: Path, folder: Path, requests: int) -> list[str]:
    """A repository on a mount of its own is never half-written."""
    mount = folder / "mount"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(mount)], capture_output=True).returncode:
        print("  left out: nothing may be mounted here")
        return []
    seen: collections.Counter[str] = collections.Counter()
    problems = []
    try:
        bundle = triton_bundles.make(folder / "m", triton_bundles.THREE)
        try:
            write_repository(bundle, mount, TritonOptions("net", devices=()))
            problems.append("a mount of its own was written into without --staging")
        except EngineError as error:
            print(f"  refused: {str(error).replace(str(mount), 'M')}")
        (mount / "models").mkdir()
        (mount / "stage").mkdir()
        with core(environment, mount / "models", "--model-control-mode=poll", f"--repository-poll-secs={POLL_S}") as on:
            for number in range(3):
                how = {"force": number > 0, "staging": mount / "stage" if number else None}
                write_repository(bundle, mount / "models", TritonOptions("net", devices=()), **how)
                seen.update(path.name for path in (mount / "models").iterdir())
                if not on.wait(lambda: on.client.is_model_ready("net")):
                    problems.append("the model is not READY")
                problems += [f"{n} is {s}" for n, s in on.states().items() if s != "READY"]
        print(f"  written 3 times, beside and by --staging: {', '.join(sorted(seen))}")
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    return problems


def replaced(environment: Path, folder: Path, requests: int) -> list[str]:
    """A split in the place of another, while clients ask."""
    first = triton_bundles.make(folder / "first", triton_bundles.THREE)
    logits = triton_bundles.NODES["logits"]
    triton_bundles.NODES["logits"] = logits.replace("Sub(l, r)", "Add(l, r)")
    second = triton_bundles.make(folder / "second", triton_bundles.THREE)
    triton_bundles.NODES["logits"] = logits
    inputs = random_inputs(first.inputs, 1)
    wanted = []
    for bundle in (first, second):
        with engines.load(bundle, "onnxruntime", threads=1) as runner:
            wanted.append({name: array.copy() for name, array in runner(inputs).items()})
    options, place = TritonOptions("net", devices=()), folder / "models"
    write_repository(first, place, options)
    outcomes: collections.Counter[str] = collections.Counter()
    examples: list[str] = []
    end = threading.Event()
    swaps = 0
    with core(environment, place, "--model-control-mode=poll", f"--repository-poll-secs={POLL_S}") as started:
        if not started.wait(lambda: started.client.is_model_ready("net")):
            return ["the model is not READY"]

        def ask() -> None:
            with contextlib.closing(GrpcClient(started.address)) as own:
                while not end.is_set():
                    try:
                        found = own.infer("net", inputs)
                    except triton.InferenceServerException as error:
                        outcomes["lost"] += 1
                        examples.append(str(error))
                        continue
                    is_one = [all(np.array_equal(found[k], v) for k, v in each.items()) for each in wanted]
                    outcomes["first" if is_one[0] else "second" if is_one[1] else "wrong"] += 1

        clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for each in clients:
            each.start()
        try:
            while outcomes.total() < requests:
                bundle = (second, first)[swaps % 2]
                write_repository(bundle, place, options, force=True)
                swaps += 1
                mark = bundle.sha256
                if not started.wait(lambda mark=mark: mark in str(started.client.get_model_config("net"))):
                    examples.append("the new ensemble is not shown")
                    break
                write_repository(bundle, place, options, force=True, prune=True)
                time.sleep(2 * POLL_S)
        finally:
            end.set()
            for each in clients:
                each.join()
    print(f"  {outcomes.total()} requests, {swaps} replacements, each pruned: {dict(outcomes)}")
    bad = outcomes["lost"] + outcomes["wrong"]
    is_both = outcomes["first"] and outcomes["second"]
    return examples[:3] + ([f"{bad} lost or wrong"] if bad else []) + ([] if is_both else ["one never answered"])


CHECKS = {"models": models, "batch": batch, "mounted": mounted, "replaced": replaced}


def main() -> int:
    """Run the checks; 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)} (default: all)")
    parser.add_argument("--core", type=Path, required=True, metavar="DIR", help="the environment with nvidia-pytriton")
    parser.add_argument("--requests", type=int, default=10_000, help="while a split is replaced (default 10,000)")
    args = parser.parse_args()
    if not is_there(args.core):
        print(f"left out: {args.core} holds no nvidia-pytriton; pip install nvidia-pytriton onnxruntime there")
        return 0
    failed = 0
    for name in args.checks or CHECKS:
        print(f"{name}:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            problems = CHECKS[name](args.core, Path(folder), args.requests)
        print(*(f"  {problem}" for problem in problems), f"  {'FAILED' if problems else 'held'}", sep="\n", flush=True)
        failed += bool(problems)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
