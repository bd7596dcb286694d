#include <doctest/doctest.h>

#include "tensorrt/log.hpp"

TEST_CASE("of what TensorRT says, the error is taken that tells, without the C++ around it") {
  const std::string header =
      "[runtime.cpp::readHeader::765] Error Code 2: Internal Error (Assertion bufferSize >= minBufferSize failed.  In "
      "readHeader at /_src/runtime/dispatch/runtime.cpp:765)";
  const std::string driver = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35)";
  CHECK(plainconv::first_error({driver, header}) == "Assertion bufferSize >= minBufferSize failed");
  CHECK(plainconv::first_error({"[x] plain\nwords. "}) == "plain words");
  CHECK(plainconv::first_error({driver}).find("cudaError 35") != std::string::npos);
  CHECK(plainconv::first_error({}).find("does not say why") != std::string::npos);
  CHECK(plainconv::why_not_loaded({header}) ==
        "Assertion bufferSize >= minBufferSize failed; build it again with `exporter build`");
  CHECK(plainconv::why_not_loaded({"CUDA: out of memory"}) ==
        "out of memory (CUDA: out of memory); free memory of the GPU");
  CHECK(plainconv::first_error({std::string(100000, 'x')}).size() < 410);
}
