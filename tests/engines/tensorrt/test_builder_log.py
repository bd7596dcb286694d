"""Which line of TensorRT's log is the error."""

import pytest

from plainconv.engines.tensorrt.builder_log import (
    LogLine,
    first_error,
    text_of,
    warnings_of,
    why_not_built,
    why_not_loaded,
)

NO_DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/common/dispatch/"
    "checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] Cannot compile operation "
            "'fc' for Turing (SM75): FP32 GEMM is not supported. In compileGraph at /_src/optimizer/myelin/c.cpp:2012)",
            "Cannot compile operation 'fc' for Turing (SM75): FP32 GEMM is not supported",
        ),
        (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has dynamic or shape inputs, but "
            "no optimization profile has been defined. In validate at /_src/optimizer/api/network.cpp:4023)",
            "Network has dynamic or shape inputs, but no optimization profile has been defined",
        ),
        ("plain\nwords.", "plain words"),
    ],
)
def test_error_without_its_cpp(text, words):
    """Given an error as TensorRT logs it -> what it says."""
    lines = [LogLine("INFO", "x"), LogLine("ERROR", text), LogLine("ERROR", "later")]
    assert first_error(lines) == words


def test_missing_driver_hides_no_other_error():
    """Given the error that a machine without a driver adds to any other -> the other; alone, itself."""
    assert first_error([LogLine("ERROR", NO_DRIVER), LogLine("ERROR", "the reason")]) == "the reason"
    missing = "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"
    assert first_error([LogLine("ERROR", NO_DRIVER)]) == missing


def test_no_error_said():
    assert "does not say why" in first_error([LogLine("WARNING", "x")])


def test_log_and_warnings():
    """Given a log -> what is kept of it, and each warning once."""
    lines = [LogLine("VERBOSE", "a"), LogLine("INFO", "b"), LogLine("WARNING", "c\n d"), LogLine("WARNING", "c\n d")]
    assert text_of(lines) == "[INFO] b\n[WARNING] c\n d\n[WARNING] c\n d\n"
    assert warnings_of(lines) == ("c d",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Tactic Selection: no tactics to implement the operation within workspace limit.", "do not fit the workspace"),
        ("Could not find any implementation. Try increasing the workspace size", "do not fit the workspace"),
        ("Requested amount of GPU memory (12884901888 bytes) could not be allocated.", "out of memory (Requested"),
        ("Error Code 2: OutOfMemory (Requested size was 4096 bytes.)", "out of memory (Requested size"),
        ("Error Code 1: Cuda Runtime (out of memory)", "out of memory (out of memory); close other programs"),
        ("std::bad_alloc", "out of memory"),
        ("Cannot compile operation 'fc'", "Cannot compile operation 'fc'; give other --targets, or --engine none"),
    ],
)
def test_why_a_build_failed_and_what_to_do(text, words):
    """Given an error of a build -> memory and workspace said as such, each with its own remedy, in one line."""
    said = why_not_built([LogLine("WARNING", "out of memory"), LogLine("ERROR", text)])
    assert words in said and "; " in said and "\n" not in said


def test_why_an_engine_was_refused_and_what_to_do():
    memory = why_not_loaded([LogLine("ERROR", "Error Code 1: Cuda Runtime (out of memory)")])
    assert memory == "out of memory (out of memory); free memory of the GPU"
    assert why_not_loaded([LogLine("ERROR", "bad magic")]) == "bad magic; build it again with `exporter build`"
