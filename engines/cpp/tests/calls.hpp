// Calls of a network on the stand-ins for CUDA and TensorRT, with a caller's tensors, and what they should give.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "doubles.hpp"
#include "network.hpp"

/// Of an input: batch × row, whole numbers.
std::vector<float> values_of(std::int64_t batch, int seed);

/// What one call gave, and what it should.
struct Result {
  std::vector<std::vector<float>> found;
  std::vector<std::vector<float>> wanted;
  [[nodiscard]] bool right() const { return found == wanted; }
};

/// One call; where `on_gpu` says so (bit i of input i, then of output i) with tensors in the memory of a device.
Result called(plainconv::Runner& runner, const SplitNetwork& net, const std::shared_ptr<Gpus>& cuda, std::int64_t batch,
              int seed, unsigned on_gpu = 0, int device = 0);
bool right(plainconv::Runner& runner, const SplitNetwork& net, const std::shared_ptr<Gpus>& cuda, int seed,
           std::int64_t batch = 2);
/// What a call throws.
std::string refused(plainconv::Runner& runner, const SplitNetwork& net, const std::shared_ptr<Gpus>& cuda,
                    std::int64_t batch = 2, unsigned on_gpu = 0, int device = 0);

/// The GPUs of the machine from now on, with nothing loaded on them.
std::shared_ptr<Gpus> a_cuda(unsigned seed = 0);
/// Nothing went against a rule, everything was given back, and no error is left for others to find.
void check_clean(const Gpus& cuda);
