// The driver of this machine, if there is one.
#include "cuda/cuda_driver.hpp"

#include <doctest/doctest.h>

#include "doubles.hpp"

TEST_CASE("the driver gives a GPU, or one line that says why not") {
  plainconv::Gpu gpu;
  const auto error = thrown_by<plainconv::EngineError>([&] { gpu = plainconv::find_gpu(0); });
  if (error.empty()) {
    CHECK(gpu.target.starts_with("sm"));
    CHECK(contains(thrown_by<plainconv::EngineError>([] { (void)plainconv::find_gpu(99); }),
                   "no GPU 99 on this machine"));
  } else {
    CHECK(error.find('\n') == std::string::npos);
    CHECK(contains(error, "; "));
  }
}
