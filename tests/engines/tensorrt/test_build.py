"""Real engines by TensorRT-RTX, which needs no GPU to build them; and the `tensorrt` backend by the same code."""

import importlib.util
import os
import signal
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper

from plainconv.engines import backend as backend_module
from plainconv.engines.backend import Backend
from plainconv.engines.cuda.gpu import Gpu
from plainconv.engines.options import BuildOptions
from plainconv.engines.tensorrt import build as tensorrt
from plainconv.engines.tensorrt import targets
from plainconv.engines.tensorrt.builder_progress import Phases
from plainconv.exporter.bundle import ShapeRange
from plainconv.exporter.errors import EngineError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")

AMPERE_ON = ("sm80", "sm86", "sm89", "sm120", "sm121")


@pytest.fixture
def rtx():
    return next(b for b in backend_module.backends() if b.name == "tensorrt_rtx")


def test_engine_of_a_static_graph(onnx_file, rtx):
    """Given an ONNX file -> an engine for every GPU from Ampere on, in the graph's precision, the same bytes twice."""
    compiled = tensorrt.compile_onnx(onnx_file, rtx)
    again = tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(targets=tuple(reversed(AMPERE_ON))))

    assert compiled.targets == again.targets == AMPERE_ON
    assert bytes(compiled.data) == bytes(again.data) and len(bytes(compiled.data)) > 10_000
    assert (compiled.precision, compiled.tf32, compiled.profiles, compiled.device) == ("fp32", False, (), None)
    assert compiled.warnings == () and compiled.seconds > 0
    assert compiled.version == rtx.version
    assert "[INFO]" in compiled.log and str(onnx_file.parent) not in compiled.log


def test_precision_is_read_off_the_graph(tmp_path, make, rtx):
    compiled = tensorrt.compile_onnx(
        make.onnx(tmp_path / "m.onnx", dtype=np.float16), rtx, BuildOptions(targets=("sm86",))
    )
    assert compiled.precision == "fp16"


def test_tf32_is_another_engine(onnx_file, rtx):
    """Given leave to use TF32 -> it is recorded, and the engine differs: without leave it is off, as in no default."""
    exact = tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(targets=("sm80",)))
    loose = tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(targets=("sm80",), tf32=True))
    assert loose.tf32 and bytes(loose.data) != bytes(exact.data)


def test_external_data_beside_the_file(tmp_path, make, rtx):
    """Given weights in a file of their own -> an engine; with that file cut or gone, one line that names it."""
    path = make.onnx(tmp_path / "model.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert len(bytes(tensorrt.compile_onnx(path, rtx, BuildOptions(targets=("sm86",))).data)) > 10_000

    (tmp_path / "model.onnx.data").write_bytes(b"short")
    with pytest.raises(
        EngineError, match=r"cannot parse it: ONNX external weights .*model\.onnx\.data.*; export it ag"
    ):
        tensorrt.compile_onnx(path, rtx)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(
        EngineError, match=r"cannot parse it: Failed to open file: .*model\.onnx\.data; export it again"
    ):
        tensorrt.compile_onnx(path, rtx)


# --- targets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["sm75", *AMPERE_ON])
def test_one_target(onnx_file, rtx, target):
    assert tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(targets=(target.upper(), target))).targets == (target,)


def test_turing_beside_others_is_warned_of(onnx_file, rtx):
    compiled = tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(targets=("sm86", "sm75")))
    assert compiled.targets == ("sm75", "sm86")
    assert compiled.warnings == ("sm75 makes an engine slower on every other target; build it alone",)


def test_target_that_cannot_take_the_graph(tmp_path, make, rtx):
    """Given an fp32 Gemm, for Turing -> one line with the builder's own reason."""
    with pytest.raises(EngineError) as raised:
        tensorrt.compile_onnx(make.gemm_onnx(tmp_path / "gemm.onnx"), rtx, BuildOptions(targets=("sm75",)))
    assert str(raised.value) == (
        "gemm.onnx: tensorrt_rtx cannot build it for sm75: Cannot compile operation 'fc' for Turing (SM75): "
        "FP32 GEMM is not supported; give other --targets, or --engine none"
    )


@pytest.mark.parametrize("target", ["sm90", "current", "none", "8.6", ""])
def test_unknown_target(onnx_file, rtx, target):
    """Given a name that is no target -> one line with those that are."""
    with pytest.raises(EngineError, match=rf"unknown target '{target}'; tensorrt_rtx .* takes sm75, sm80, sm86"):
        tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(targets=("sm86", target)))


# --- options and profiles ------------------------------------------------------------------------------------------

BATCHES = {"input": ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))}
LARGE_BATCHES = {"input": ShapeRange((9, 3, 8, 8), (32, 3, 8, 8), (64, 3, 8, 8))}


def test_optimization_profiles(tmp_path, make, rtx):
    """Given a free batch and one profile, then two -> engines with these; more profiles take more room."""
    path = make.onnx(tmp_path / "m.onnx", batch="batch")
    options = BuildOptions(targets=("sm86",), profiles=(BATCHES,))
    one = tensorrt.compile_onnx(path, rtx, options)
    two = tensorrt.compile_onnx(path, rtx, replace(options, profiles=(BATCHES, LARGE_BATCHES)))
    assert (one.profiles, two.profiles) == ((BATCHES,), (BATCHES, LARGE_BATCHES))
    assert len(bytes(two.data)) > len(bytes(one.data))


def test_free_height_and_width(tmp_path, make, rtx):
    path = make.typed_onnx(tmp_path / "m.onnx", "fp16", shape=("batch", 16, "height", "width"))
    profile = {"input": ShapeRange((1, 16, 8, 8), (2, 16, 16, 24), (4, 16, 64, 32))}
    compiled = tensorrt.compile_onnx(path, rtx, BuildOptions(targets=("sm86",), profiles=(profile,)))
    assert compiled.profiles == (profile,) and compiled.precision == "fp16"


@pytest.mark.parametrize(
    ("batch", "profiles", "message"),
    [
        ("batch", (), r"m\.onnx: input is \[-1, 3, 8, 8\], whose open axes \(-1\) no optimization profile covers"),
        (1, (BATCHES,), r"m\.onnx: it fixes every shape, and 1 optimization profiles are given; give none"),
        ("batch", ({},), r"m\.onnx: optimization profile 0 says nothing of input, which has open axes; add it"),
        (
            "batch",
            ({"input": replace(BATCHES["input"], max=(8, 4, 8, 8)), "y": BATCHES["input"]},),
            r"m\.onnx: optimization profile 0 covers y, which is no input; leave it out \(and 1 more\)",
        ),
    ],
)
def test_profiles_that_do_not_suit_the_graph(tmp_path, make, rtx, batch, profiles, message):
    path = make.onnx(tmp_path / "m.onnx", batch=batch)
    with pytest.raises(EngineError, match=message):
        tensorrt.compile_onnx(path, rtx, BuildOptions(targets=("sm86",), profiles=profiles))


def test_layers_are_read_back(tmp_path, make, rtx):
    """Given a graph of an int8 conv and an fp16 Gemm -> what each computes in, by the name of its node."""
    path = make.typed_onnx(tmp_path / "m.onnx", "int8", "fp16", floats="fp16")
    compiled = tensorrt.compile_onnx(path, rtx, BuildOptions(targets=("sm86",)))
    assert compiled.layers == {"stage.conv": "int8", "head": "fp16"} and compiled.precision == "int8"


def test_default_targets_are_those_that_have_the_type(tmp_path, make, rtx):
    """Given an fp8 graph -> built for the GPUs that have fp8; given one that has not, by name, a line that says so."""
    path = make.typed_onnx(tmp_path / "m.onnx", "fp8")
    assert tensorrt.compile_onnx(path, rtx).targets == ("sm89", "sm120", "sm121")
    with pytest.raises(EngineError, match=r"^tensorrt_rtx cannot build it: sm86 has no fp8, sm89 and later have; give"):
        tensorrt.compile_onnx(path, rtx, BuildOptions(targets=("sm86", "sm89")))


def test_optimization_level_changes_nothing_and_what_is_none_is_refused(onnx_file, rtx):
    options = BuildOptions(targets=("sm86",))
    usual = bytes(tensorrt.compile_onnx(onnx_file, rtx, options).data)
    assert bytes(tensorrt.compile_onnx(onnx_file, rtx, replace(options, optimization_level=0)).data) == usual
    with pytest.raises(EngineError, match="optimization level 9, wanted 0 to 5"):
        tensorrt.compile_onnx(onnx_file, rtx, replace(options, optimization_level=9))


def test_workspace(onnx_file, rtx):
    """Given a limit in which the layers fit -> another engine; given one in which they do not, a line that says so."""
    options = BuildOptions(targets=("sm86",))
    usual = bytes(tensorrt.compile_onnx(onnx_file, rtx, options).data)
    limited = bytes(tensorrt.compile_onnx(onnx_file, rtx, replace(options, workspace=2**30)).data)
    assert limited != usual
    with pytest.raises(EngineError, match=r"do not fit the workspace \(.*within workspace limit.*\); give a larger"):
        tensorrt.compile_onnx(onnx_file, rtx, replace(options, workspace=1024))


def test_no_timing_cache_for_rtx(onnx_file, rtx, tmp_path):
    with pytest.raises(EngineError, match="tensorrt_rtx has none: it measures nothing; leave it out"):
        tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(timing_cache=tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda raw: raw[: len(raw) // 2], "cannot parse it: Failed to parse the ONNX model; export it again"),
        (lambda raw: b"", "cannot parse it: it holds no graph; export it again"),
        (lambda raw: b"\xff" * 500, "cannot parse it: Failed to parse the ONNX model"),
    ],
)
def test_file_that_is_no_onnx(onnx_file, rtx, cut, message):
    onnx_file.write_bytes(cut(onnx_file.read_bytes()))
    with pytest.raises(EngineError, match=rf"^model\.onnx: tensorrt_rtx {message}") as raised:
        tensorrt.compile_onnx(onnx_file, rtx)
    assert "\n" not in str(raised.value)


def test_no_file(tmp_path, rtx):
    with pytest.raises(EngineError, match=r"nowhere\.onnx: no such file, wanted an ONNX model"):
        tensorrt.compile_onnx(tmp_path / "nowhere.onnx", rtx)


def test_operator_that_is_not_supported(tmp_path, rtx):
    """Given operators of which the parser knows none -> one line with the first, and how many more."""
    value = helper.make_tensor_value_info
    for operators, domain, message in (
        (("Det",), "", r"node last \(Det\): this operator is not supported; give --engine none"),
        (("Frob", "Wib"), "own", r"node last \(Frob\): Plugin not found, .* \(and 1 more\); give --engine none"),
    ):
        names = ["input", *(f"t{i}" for i in range(1, len(operators))), "logits"]
        nodes = [
            helper.make_node(operator, [a], [b], name="last", domain=domain)
            for operator, a, b in zip(operators, names, names[1:], strict=False)
        ]
        graph = helper.make_graph(nodes, "g", [value("input", 1, [1, 4, 4])], [value("logits", 1, None)])
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 10
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(EngineError, match=message) as raised:
            tensorrt.compile_onnx(tmp_path / "m.onnx", rtx)
        assert "\n" not in str(raised.value)


def test_builds_one_after_another_and_at_once(onnx_file, tmp_path, make, rtx):
    """Given a failed build, then several in threads -> each has its own engine."""
    with pytest.raises(EngineError):
        tensorrt.compile_onnx(make.gemm_onnx(tmp_path / "gemm.onnx"), rtx, BuildOptions(targets=("sm75",)))
    alone = bytes(tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(targets=("sm86",))).data)
    built = []
    threads = [
        threading.Thread(
            target=lambda: built.append(tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(targets=("sm86",))))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bytes(compiled.data) == alone for compiled in built] == [True] * 3


def test_interrupt_ends_the_build(onnx_file, rtx, monkeypatch):
    """Given Ctrl-C at the builder's first phase -> it ends at its next step, and KeyboardInterrupt arrives."""
    ended, steps = threading.Event(), []
    real = tensorrt.monitor_of

    def monitor_of(trt, phases):
        monitor = real(trt, phases)
        end_build = monitor.end_build
        monitor.end_build = lambda: (end_build(), ended.set())
        return monitor

    def start(self, name, parent, count):
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(10)

    monkeypatch.setattr(tensorrt, "monitor_of", monitor_of)
    monkeypatch.setattr(Phases, "start", start)
    monkeypatch.setattr(Phases, "step", lambda self, name, step: steps.append(name))
    with pytest.raises(KeyboardInterrupt):
        tensorrt.compile_onnx(onnx_file, rtx)
    assert ended.is_set() and len(steps) <= 1


def test_a_bar_that_fails_does_not_end_the_build(onnx_file, rtx, monkeypatch):
    def broken(*_):
        raise OSError("stderr is gone")

    monkeypatch.setattr(Phases, "step", broken)
    assert len(bytes(tensorrt.compile_onnx(onnx_file, rtx, BuildOptions(targets=("sm86",))).data)) > 10_000


# --- loading, and the other backend --------------------------------------------------------------------------------


def test_backend_that_cannot_be_imported(onnx_file):
    missing = Backend("no_such_runtime", "1", True, True, True, remedy="pip install it")
    with pytest.raises(EngineError, match=r"no_such_runtime cannot be imported \(No module named .*\); pip install it"):
        tensorrt.compile_onnx(onnx_file, missing)


@pytest.fixture
def tensorrt_backend(monkeypatch):
    """The `tensorrt` backend on a machine with an RTX 3090, by the runtime that is at hand: their APIs are one."""
    monkeypatch.setitem(sys.modules, "tensorrt", importlib.import_module("tensorrt_rtx"))
    for module in (tensorrt, targets):
        monkeypatch.setattr(module, "find_gpu", lambda number=0: Gpu("NVIDIA GeForce RTX 3090", "sm86", 0))
    return next(b for b in backend_module.backends() if b.name == "tensorrt")


def test_tensorrt_builds_for_the_gpu_at_hand(onnx_file, tensorrt_backend):
    """Given no target, or the GPU's own -> an engine for it, with its name in the record."""
    for chosen in ((), ("sm86",)):
        compiled = tensorrt.compile_onnx(onnx_file, tensorrt_backend, BuildOptions(targets=chosen))
        assert (compiled.targets, compiled.device) == (("sm86",), "NVIDIA GeForce RTX 3090")


def test_tensorrt_builds_for_no_other_gpu(onnx_file, tensorrt_backend):
    with pytest.raises(
        EngineError, match=r"unknown target 'sm80'; tensorrt .* builds for the GPU at hand only, which is sm86"
    ):
        tensorrt.compile_onnx(onnx_file, tensorrt_backend, BuildOptions(targets=("sm80",)))


def test_tensorrt_builds_on_the_gpu_asked_for(onnx_file, tensorrt_backend, monkeypatch):
    """Given device=2 -> the thread that builds, a new one, uses GPU 2 before it makes a builder."""
    trt, done, asked = sys.modules["tensorrt"], [], []

    class Cuda:
        def use_device(self, device):
            done.append(("use", device, threading.get_ident()))

    def builder(log, real=trt.Builder):
        done.append(("build", None, threading.get_ident()))
        return real(log)

    def find_gpu(number=0):
        asked.append(number)
        return Gpu("NVIDIA A10", "sm86", 0)

    monkeypatch.setattr(tensorrt, "CudaRuntime", Cuda)
    for module in (tensorrt, targets):
        monkeypatch.setattr(module, "find_gpu", find_gpu)
    monkeypatch.setattr(trt, "Builder", builder)
    compiled = tensorrt.compile_onnx(onnx_file, tensorrt_backend, BuildOptions(device=2))
    assert compiled.device == "NVIDIA A10" and set(asked) == {2}
    (use, device, builds), (build, _, built) = done[:2]
    assert (use, device, build, builds) == ("use", 2, "build", built) and built != threading.get_ident()


def test_builder_that_does_not_start(onnx_file, rtx, monkeypatch):
    """Given bindings that raise where the library gives no builder -> one line."""

    def none(log):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(importlib.import_module("tensorrt_rtx"), "Builder", none)
    with pytest.raises(EngineError, match=r"does not start to build \(pybind11::init.*nullptr\); see whether nvidia"):
        tensorrt.compile_onnx(onnx_file, rtx)


INSPECTED = '{"Layers": [{"Metadata": "[ONNX Layer: conv]", "Inputs": [{"Format/Datatype": "FP32"}]}]}'


def test_engine_that_fell_back_to_a_wider_type_is_refused(tmp_path, make, tensorrt_backend, monkeypatch):
    """Given a GPU to load the engine on, and layers of it that compute in more than the graph says -> no engine."""
    path = make.onnx(tmp_path / "m.onnx", dtype=np.float16)
    monkeypatch.setattr(tensorrt, "_inspected", lambda trt, data: INSPECTED)
    with pytest.raises(EngineError, match="the engine computes conv in fp32, the graph wants fp16; keep that layer"):
        tensorrt.compile_onnx(path, tensorrt_backend)
    assert tensorrt.compile_onnx(make.onnx(path), tensorrt_backend).layers == {"conv": "fp32"}


def test_inspection_asks_the_engine_itself(monkeypatch):
    """Given a runtime that loads the bytes -> the JSON of its inspector; given one that does not, nothing."""
    asked = []

    class Inspector:
        def get_engine_information(self, form):
            asked.append(form)
            return INSPECTED

    class Runtime:
        def __init__(self, log):
            pass

        def deserialize_cuda_engine(self, data):
            return SimpleNamespace(create_engine_inspector=Inspector) if data == b"engine" else None

    real = importlib.import_module("tensorrt_rtx")
    trt = SimpleNamespace(Runtime=Runtime, LayerInformationFormat=real.LayerInformationFormat)
    monkeypatch.setattr(tensorrt, "log_of", lambda trt: None)
    assert tensorrt._inspected(trt, b"engine") == INSPECTED and asked == [real.LayerInformationFormat.JSON]
    assert tensorrt._inspected(trt, b"junk") == ""


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_timing_cache_of_tensorrt_is_written(onnx_file, tensorrt_backend, tmp_path):
    """Given a name that is free -> a file there, which the next build takes."""
    options = BuildOptions(timing_cache=tmp_path / "cache")
    for _ in range(2):
        tensorrt.compile_onnx(onnx_file, tensorrt_backend, options)
        assert (tmp_path / "cache").is_file()
