"""Prints which names that we call a `tensorrt.so` of TensorRT's bindings lacks: `python names.py tensorrt.so FOLDER`.

The libraries that it needs are made in FOLDER, of functions that do nothing.
"""

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path

from build import compiler

NAMES = {
    "Builder": "create_network create_builder_config create_optimization_profile build_serialized_network",
    "EngineInspector": "get_engine_information",
    "IBuilderConfig": "progress_monitor clear_flag set_memory_pool_limit builder_optimization_level max_aux_streams "
    "profiling_verbosity create_timing_cache set_timing_cache get_timing_cache add_optimization_profile",
    "ICudaEngine": "create_execution_context device_memory_size_v2 num_io_tensors get_tensor_name num_aux_streams "
    "create_engine_inspector",
    "IExecutionContext": "set_optimization_profile_async set_device_memory set_input_shape set_tensor_address "
    "get_tensor_shape execute_async_v3",
    "ILayer": "metadata name type num_inputs num_outputs get_input get_output",
    "ILogger": "log",
    "INetworkDefinition": "num_outputs num_inputs num_layers get_input get_layer add_activation add_input mark_output",
    "IOptimizationProfile": "set_shape",
    "IProgressMonitor": "phase_start step_complete phase_finish",
    "OnnxParser": "parse_from_file num_errors get_error",
    "Runtime": "deserialize_cuda_engine",
    "ActivationType": "RELU",
    "BuilderFlag": "TF32",
    "ExecutionContextAllocationStrategy": "STATIC USER_MANAGED",
    "LayerInformationFormat": "JSON",
    "MemoryPoolType": "WORKSPACE",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "ProfilingVerbosity": "DETAILED",
}


def lines(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def load(file, folder):
    """The module, on libraries that do nothing."""
    needed = [line.partition("[")[2].rstrip("]") for line in lines("readelf", "-d", file) if "NEEDED" in line]
    calls = [line.split()[1] for line in lines("nm", "-D", "--undefined-only", file) if line.split()[0] == "U"]
    calls = [call for call in calls if any(word in call for word in ("Infer", "Onnx", "PluginRegistry"))]
    source = folder / "nothing.cpp"
    source.write_text('extern "C" {' + "".join(f"void* {call}() {{ return nullptr; }}" for call in calls) + "}")
    for library in [name for name in needed if name.startswith("libnv")]:
        made = folder / library
        command = [compiler(), "-shared", "-fPIC", str(source), f"-Wl,-soname,{library}", "-o", str(made)]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(made), mode=ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location("tensorrt", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    trt = load(sys.argv[1], Path(sys.argv[2]))
    for kind, names in NAMES.items():
        for name in names.split():
            if not hasattr(getattr(trt, kind, None), name):
                print(f"{kind}.{name}")
