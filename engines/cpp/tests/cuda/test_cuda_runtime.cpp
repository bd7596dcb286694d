// CUDA by way of its runtime, on the stand-in for that: what is given back when nothing holds it, and what is refused.
#include <doctest/doctest.h>

#include "calls.hpp"

TEST_CASE("a handle is given back once, on its own device, by whoever holds it last") {
  const auto gpus = a_cuda();
  const auto cuda = plainconv::cuda_runtime();
  {
    const plainconv::UsingDevice back(*cuda, 3);
    plainconv::Handle first(*cuda, 3, cuda->allocate(100), &plainconv::Cuda::free);
    plainconv::Handle second(std::move(first));
    CHECK(second.value() != 0);
    cuda->use_device(1);
    second = plainconv::Handle(*cuda, 1, cuda->allocate(10), &plainconv::Cuda::free);
    CHECK(gpus->count("free") == 1);
  }
  CHECK(cuda->device() == 0);
  check_clean(*gpus);
}

TEST_CASE("what cannot be given back is let go of in silence") {
  const auto gpus = a_cuda();
  const auto cuda = plainconv::cuda_runtime();
  {
    const plainconv::Handle handle(*cuda, 0, cuda->allocate(100), &plainconv::Cuda::free);
    gpus->dead.insert(0);
  }
  CHECK(gpus->count("free") == 1);
  CHECK_FALSE(gpus->empty());
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("an error of CUDA's is one line, and not left for others to find") {
  const auto gpus = a_cuda();
  const auto cuda = plainconv::cuda_runtime();
  gpus->fail["allocate"] = 1;
  CHECK(thrown_by<plainconv::EngineError>([&] { (void)cuda->allocate(100); }) ==
        "CUDA failed (cudaMalloc: allocate failed as it was told to); see whether nvidia-smi runs and the driver is "
        "recent");
  cuda->use_device(1);
  cuda->reach(2);
  cuda->reach(2);  // which another runner did already
  check_clean(*gpus);
}

TEST_CASE("a copy between GPUs without access to one another breaks a rule") {
  const auto gpus = a_cuda();
  const auto cuda = plainconv::cuda_runtime();
  const auto memory = [&](int device) {
    const plainconv::UsingDevice there(*cuda, device);
    return plainconv::Handle(*cuda, device, cuda->allocate(8), &plainconv::Cuda::free);
  };
  const auto here = memory(0);
  const auto there = memory(1);
  const plainconv::Handle stream(*cuda, 0, cuda->create_stream(), &plainconv::Cuda::destroy_stream);
  cuda->copy(there.value(), 1, here.value(), 0, 8, stream.value());
  CHECK(gpus->broken() == "a copy between devices that have no access to one another");
  gpus->drain();
}
