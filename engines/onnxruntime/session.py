"""Starts ONNX Runtime on a model. The only file of this package that imports it, and late."""

import contextlib
import importlib.util
import io
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from plainconv.exporter.errors import EngineError, PlainconvWarning, one_line
from plainconv.exporter.wheels import collision, missing

from ..cuda.gpu import find_gpu
from .graph_runs import by_graph

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt_rtx": "NvTensorRTRTXExecutionProvider",
}
"""Its execution providers; the last is a plugin, a package of its own."""

_CONV_SEARCHES = ("exhaustive", "heuristic", "default")
_INSTALL = "pip uninstall onnxruntime, then pip install 'plainconv[gpu]' 'onnxruntime-gpu[cuda,cudnn]'"
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_NO_MEMORY = re.compile(r"allocate memory|out of memory|bad.?alloc", re.IGNORECASE)
_LOST = re.compile(  # CUDA's numbers and words for errors that stay
    r"CUDA (failure|error):? *(46|100|2[12]\d|7[01]\d|999)\b|illegal (memory access|instruction)|misaligned address|"
    r"unspecified launch failure|device-side assert|hardware stack error|uncorrectable|launch timed out",
    re.IGNORECASE,
)
_FATAL = 4  # of its log levels: what is less comes back as an exception, or the caller cannot mend it


@dataclass(frozen=True)
class SessionOptions:
    """How ONNX Runtime runs a model.

    `providers`: "cpu", "cuda", "tensorrt", "tensorrt_rtx", or "auto", which is CUDA where it starts and the CPU
    elsewhere. `threads` of the CPU (0: one per core). `tf32`: whether a GPU may round the factors of float32 products
    to 10 bits. `conv_search`: how cuDNN finds its convolutions, "exhaustive" (timed at the first call of each shape),
    "heuristic" or "default". `further`: options of the execution provider, in its own words. `cores`: numbers of those
    that the threads it starts are bound to; the calling thread runs a part of the model too, and stays where it is.
    `device`: the GPU, by its number. `cuda_graph`: runs by an IO binding become CUDA graphs.
    """

    providers: str = "auto"
    threads: int = 0
    tf32: bool = False
    conv_search: str = "exhaustive"
    further: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()
    device: int = 0
    cuda_graph: bool = False


Read = Callable[[Path], bytes | None]
"""The bytes of an ONNX file, which somebody has verified; None where ONNX Runtime is to open it."""


def open_it(onnx: Path) -> None:
    """Have ONNX Runtime open it."""


def runtime() -> ModuleType:
    """ONNX Runtime itself. Raises EngineError where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(missing(error)) from None
    module: ModuleType = onnxruntime
    return module


def run_options(onnxruntime: ModuleType) -> Any:
    """What one run, or several, can be told to stop by. It names the graph to capture, as by default.

    ONNX Runtime looks that up for each binding, GPU or not, and by an exception where it is not said: 30 µs a run.
    """
    return by_graph(onnxruntime, 0)


def start(onnx: Path, options: SessionOptions, read: Read = open_it) -> tuple[Any, str]:
    """An InferenceSession of the ONNX file at `onnx`, and the provider that runs it, one of `PROVIDERS`.

    ONNX Runtime by itself goes on with the CPU where a GPU provider does not start. Here that is an error, or with
    "auto" a warning; without a GPU, or an ONNX Runtime for one, "auto" is the CPU and says nothing.

    Raises EngineError where ONNX Runtime is not installed, the provider asked for does not start, or the file is no
    model that it takes.
    """
    provider, onnxruntime = provider_of(options), runtime()
    session = _session(onnxruntime, onnx, read, provider, options)
    if PROVIDERS[provider] in session.get_providers():
        return session, provider
    found = f"ONNX Runtime's {provider} provider does not start here, for want of a library it needs"
    remedy = "pip install 'onnxruntime-gpu[cuda,cudnn]' of the CUDA version that the driver runs"
    if options.providers != "auto":
        raise EngineError(f"{found}; {remedy}, or run on the CPU")
    warnings.warn(f"{found}, the CPU runs the model; {remedy}", PlainconvWarning, stacklevel=3)
    return session, "cpu"


def provider_of(options: SessionOptions) -> str:
    """What `start` starts first. Raises EngineError where there is no such thing here."""
    problems = option_problems(options)
    if problems:
        raise EngineError(problems[0])
    return _chosen(runtime(), options)


def option_problems(options: SessionOptions) -> list[str]:
    """What no machine could do, in one line each."""
    found = []
    if options.providers not in ("auto", *PROVIDERS):
        wanted = ", ".join(("auto", *PROVIDERS))
        found.append(f"unknown execution provider {options.providers!r}; wanted one of {wanted}")
    if options.threads < 0:
        found.append(f"threads is {options.threads}; wanted 0 (one per core) or more")
    if options.device < 0:
        found.append(f"device is {options.device}; wanted the number of a GPU, 0 or more")
    if options.conv_search not in _CONV_SEARCHES:
        found.append(f"unknown search {options.conv_search!r} for convolutions; wanted {', '.join(_CONV_SEARCHES)}")
    return found


def why_failed(error: Exception) -> str:
    """What to say of an error that ONNX Runtime raised in a run."""
    if is_no_memory(error):
        return f"out of memory ({_words(error)}); close other programs, or run a smaller batch"
    return f"ONNX Runtime cannot run the model ({_words(error)})"


def _words(error: Exception) -> str:
    """What ONNX Runtime says, on one line, without where in its source it says so."""
    text = str(error).rpartition("Status Message: ")[2]
    text = re.sub(r"^/\S+:\d+ [^(]*\([^)]*\)( const)? ", "", text)
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return one_line(Exception(text)).rstrip(". ")


def is_lost(error: Exception) -> bool:
    """Whether CUDA said what it says from then on to every call of the process: the GPU cannot be used any more."""
    return _LOST.search(str(error)) is not None


def is_no_memory(error: Exception) -> bool:
    """Whether memory of the host or the GPU did not suffice."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def _chosen(onnxruntime: ModuleType, options: SessionOptions) -> str:
    """The provider to start. Raises EngineError where it cannot be."""
    has, wanted = set(onnxruntime.get_available_providers()), options.providers
    if wanted == "auto":
        return "cuda" if PROVIDERS["cuda"] in has and _why_no_gpu(options.device) is None else "cpu"
    if wanted == "tensorrt_rtx":
        if importlib.util.find_spec(_PLUGIN) is None:
            raise EngineError(f"ONNX Runtime's {wanted} provider is not installed; pip install 'plainconv[ort-rtx]'")
    elif PROVIDERS[wanted] not in has:
        remedy = collision() or _INSTALL
        raise EngineError(f"ONNX Runtime {onnxruntime.__version__} here has no {wanted} provider; {remedy}")
    if wanted != "cpu" and (reason := _why_no_gpu(options.device)):
        raise EngineError(f"ONNX Runtime's {wanted} provider cannot run here: {reason}")
    if wanted.startswith("tensorrt") and not options.tf32 and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        raise EngineError(
            f"ONNX Runtime's {wanted} provider computes in TF32 and has no option against it; set "
            "NVIDIA_TF32_OVERRIDE=0 before the program starts, or allow tf32"
        )
    return wanted


def _why_no_gpu(device: int) -> str | None:
    """Why there is no GPU of that number to run on; None where there is one."""
    try:
        find_gpu(device)
    except EngineError as error:
        return str(error)
    return None


def _session(onnxruntime: ModuleType, onnx: Path, read: Read, provider: str, options: SessionOptions) -> Any:
    """An InferenceSession that asks for `provider` and, for what that does not run, for those after it."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = _FATAL
    # Threads that spin between two runs slow down everything else on the machine, other sessions above all.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.cores and options.threads > 1:
        each = ",".join(str(core + 1) for core in options.cores)  # it counts them from 1
        affinities = ";".join([each] * (options.threads - 1))
        settings.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls(directory="")  # what pip installs; torch's own are torch's
    onnxruntime.set_default_logger_severity(_FATAL)  # what it says of libraries it does not find, in colours
    asked: Any = _asked(provider, options)
    if provider == "tensorrt_rtx":
        settings.add_provider_for_devices([_plugin_device(onnxruntime, options.device)], asked[0][1])
        asked = None
    model = read(onnx) or str(onnx)
    try:
        # Its own fallback would print, and go on with what nobody asked for.
        return onnxruntime.InferenceSession(model, settings, providers=asked, enable_fallback=0)
    except Exception as error:  # it raises a dozen classes of its own without a common base
        if is_no_memory(error):
            raise EngineError(f"{onnx.name}: out of memory ({_words(error)}); close other programs") from error
        raise EngineError(f"{onnx.name}: ONNX Runtime cannot load it ({_words(error)}); export it again") from error


def _plugin_device(onnxruntime: ModuleType, device: int) -> Any:
    """The GPU of that number as the plugin has it. Raises EngineError where the plugin does not start, or has none."""
    plugin, name = importlib.import_module(_PLUGIN), PROVIDERS["tensorrt_rtx"]
    found = [each for each in onnxruntime.get_ep_devices() if each.ep_name == name]
    if not found:  # it is registered once a process
        try:
            onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
        except Exception as error:  # of classes without a common base
            found_out = f"ONNX Runtime's tensorrt_rtx provider does not start here ({_words(error)})"
            raise EngineError(f"{found_out}; install a recent NVIDIA driver, or run on the CPU") from error
        found = [each for each in onnxruntime.get_ep_devices() if each.ep_name == name]
    numbered = {int(each.ep_options.get("device_id", at)): each for at, each in enumerate(found)}
    if device not in numbered:
        has = f"ONNX Runtime's tensorrt_rtx provider has no GPU {device} (it has {len(found)})"
        raise EngineError(f"{has}; see to CUDA_VISIBLE_DEVICES")
    return numbered[device]


def _asked(provider: str, options: SessionOptions) -> list[Any]:
    """The execution providers with their options, the first choice first."""
    cpu, further = PROVIDERS["cpu"], dict(options.further)
    cuda = {
        "device_id": str(options.device),
        "use_tf32": str(int(options.tf32)),
        "cudnn_conv_algo_search": options.conv_search.upper(),
    }
    graph = {"enable_cuda_graph": "1"} if options.cuda_graph else {}
    if provider == "tensorrt_rtx":
        return [(PROVIDERS[provider], graph | further)]
    if provider == "cuda":
        cuda |= graph
        return [(PROVIDERS["cuda"], cuda | further), cpu]
    if provider == "tensorrt":  # precision is the graph's: none of its fp16, bf16 and int8 flags is set
        return [(PROVIDERS["tensorrt"], {"device_id": str(options.device)} | further), (PROVIDERS["cuda"], cuda), cpu]
    return [(cpu, further)]
