"""What a runner's call costs beyond ONNX Runtime's own: `engines.load(bundle)(inputs)` over `InferenceSession.run`.

    python tests/benchmarks/bench_runner.py                 # the smallest network: a 3×3 convolution of 8×8 pixels
    python tests/benchmarks/bench_runner.py out/digits      # and any bundle

Both run the same model in one process with the same options and inputs, in turns (A B B A …) of many calls each. A
time is that of a turn over its calls; the columns are medians over the turns, the spread is of the ratio's median.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from plainconv import engines
from plainconv.engines.bench import Samples, machine, random_inputs, ratio
from plainconv.exporter.bundle import Bundle, TensorSpec, write_bundle

TURN_S = 0.02


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    here = machine()
    print(f"{here['cpu']}, {here['cores']} cores, load {here['load']}; ONNX Runtime {onnxruntime.__version__}\n")
    print("| network | call | InferenceSession.run, µs | ours, µs | more, µs | ratio | 95 % |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for bundle in (tiny(Path(folder) / "tiny"), *args.bundles):
            for call, raw, ours in measured(bundle, args.rounds, args.threads):
                r, (a, b) = ratio(ours, raw), (statistics.median(s.milliseconds) * 1e3 for s in (raw, ours))
                spread = f"{r.low:.3f}–{r.high:.3f}"
                print(
                    f"| {bundle.name} | {call} | {a:.2f} | {b:.2f} | {b - a:.2f} | {r.median:.3f}× | {spread} |",
                    flush=True,
                )


def measured(path: Path, rounds: int, threads: int) -> Iterator[tuple[str, Samples, Samples]]:
    """For each way to call: its name, the raw session's times, the runner's."""
    bundle = Bundle.open(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(bundle.onnx), options, providers=["CPUExecutionProvider"])
    inputs = random_inputs(bundle.inputs, 1)
    with engines.load(bundle, "onnxruntime", threads=threads) as runner:
        given = runner(inputs)
        for array, wanted in zip(given.values(), session.run(None, inputs), strict=True):
            np.testing.assert_array_equal(array, wanted)
        yield "(inputs)", *interleaved(lambda: session.run(None, inputs), lambda: runner(inputs), rounds)
        binding = session.io_binding()

        def bound() -> None:
            for name, array in inputs.items():
                binding.bind_cpu_input(name, array)
            for name, array in given.items():
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            session.run_with_iobinding(binding)

        yield "(inputs, outputs)", *interleaved(bound, lambda: runner(inputs, given), rounds)


def interleaved(raw: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> tuple[Samples, Samples]:
    """Milliseconds per call of both, a sample a turn."""
    seconds(raw, 200)
    calls = max(1, int(TURN_S / seconds(raw, 200)))
    order: list[tuple[Callable[[], Any], list[tuple[float, ...]]]] = [(raw, []), (ours, [])]
    results = [turns for _, turns in order]
    gc.disable()
    for _ in range(rounds):
        for call, turns in order:
            seconds(call, max(1, calls // 10))
            turns.append((seconds(call, calls) * 1e3,))
        order.reverse()
    gc.enable()
    return Samples(tuple(results[0])), Samples(tuple(results[1]))


def seconds(call: Callable[[], Any], calls: int) -> float:
    """Of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def tiny(target: Path) -> Path:
    """A bundle of a convolution, 3 to 4 channels, and a ReLU."""
    w_OIHW = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(w_OIHW, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    with write_bundle(target) as draft:
        draft.manifest.name = "tiny"
        draft.manifest.inputs = (TensorSpec("input", "float32", (1, 3, 8, 8)),)
        draft.manifest.outputs = (TensorSpec("logits", "float32", (1, 4, 8, 8)),)
        onnx.save(model, draft.path("model.onnx"))
        draft.link("checkpoint", sha256="0" * 64)
        draft.link_onnx()
    return target


if __name__ == "__main__":
    main()
