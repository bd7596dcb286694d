// NVIDIA's own libraries, as far as they go on this machine.
#include <doctest/doctest.h>

#include <algorithm>

#include "doubles.hpp"
#include "tensorrt/engine.hpp"

TEST_CASE("the runtime's library says its version") {
  const auto version = plainconv::runtime_version();
  CHECK(std::ranges::count(version, '.') == 3);
}

TEST_CASE("bytes that are no engine are refused in one line, and again") {
  for (int again = 0; again < 2; ++again) {
    const auto error = thrown_by<plainconv::EngineError>([] {
      const std::string bytes(4096, 'x');
      (void)plainconv::engine_of_bytes(bytes, {.name = "engines/some.engine"});
    });
    CHECK(error.find('\n') == std::string::npos);
    CHECK(contains(error, "tensorrt"));
    CHECK(contains(error, "; "));
  }
}

TEST_CASE("without a driver the CUDA runtime says so in one line") {
  const auto error = thrown_by<plainconv::EngineError>([] { (void)plainconv::cuda_runtime(); });
  if (!error.empty()) {
    CHECK(contains(error, "CUDA failed (cudaGetDevice: "));
    CHECK(contains(error, "); see whether nvidia-smi runs and the driver is recent"));
    CHECK(error.find('\n') == std::string::npos);
  }
}
