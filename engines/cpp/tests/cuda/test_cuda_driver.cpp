// What is given back when nothing holds it, and the driver of this machine, if there is one.
#include <doctest/doctest.h>

#include "cuda/cuda_driver.hpp"
#include "doubles.hpp"
#include "recording_cuda.hpp"

TEST_CASE("a handle is given back once, on its own device, by whoever holds it last") {
  RecordingCuda cuda;
  {
    const plainconv::UsingDevice back(cuda, 3);
    plainconv::Handle first(cuda, 3, cuda.allocate(100), &plainconv::Cuda::free);
    plainconv::Handle second(std::move(first));
    CHECK(second.value() != 0);
    cuda.use_device(1);
    second = plainconv::Handle(cuda, 1, cuda.allocate(10), &plainconv::Cuda::free);
    CHECK(cuda.count("free") == 1);
  }
  CHECK(cuda.device() == 0);
  CHECK(cuda.empty());
  CHECK(cuda.astray.empty());
}

TEST_CASE("what cannot be given back is let go of in silence") {
  RecordingCuda cuda;
  {
    const plainconv::Handle handle(cuda, 0, cuda.allocate(100), &plainconv::Cuda::free);
    cuda.dead.insert(0);
  }
  CHECK(cuda.count("free") == 1);
  CHECK_FALSE(cuda.empty());
}

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
