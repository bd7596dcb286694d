#include "calls.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <span>
#include <utility>

namespace {

/// A caller's tensor, on the host or on a device.
class CallersTensor {
 public:
  CallersTensor(Gpus& gpus, std::vector<float> values, int memory)
      : host_(std::move(values)), shape_{static_cast<std::int64_t>(host_.size()) / row, row} {
    if (memory != plainconv::host_memory) {
      const plainconv::UsingDevice back(*cuda_, memory);
      device_ =
          plainconv::Handle(*cuda_, memory, cuda_->allocate(host_.size() * sizeof(float)), &plainconv::Cuda::free);
      const std::scoped_lock lock(gpus.mutex);
      gpus.callers.insert(device_.value());
      std::memcpy(data(), host_.data(), host_.size() * sizeof(float));
    }
  }
  [[nodiscard]] plainconv::Tensor view() {
    auto tensor = plainconv::output(std::span(data(), host_.size()), shape_);
    tensor.memory = device_.value() == 0 ? plainconv::Memory::host : plainconv::Memory::device;
    return tensor;
  }
  [[nodiscard]] std::vector<float> values() { return {data(), data() + host_.size()}; }

 private:
  float* data() { return device_.value() == 0 ? host_.data() : Gpus::at<float>(device_.value()); }

  std::shared_ptr<plainconv::Cuda> cuda_ = plainconv::cuda_runtime();
  std::vector<float> host_;
  std::vector<std::int64_t> shape_;
  plainconv::Handle device_;
};

}  // namespace

std::vector<float> values_of(std::int64_t batch, int seed) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < batch * row; ++i) {
    values.push_back(static_cast<float>((seed * 31 + i * 7) % 101));
  }
  return values;
}

Result called(plainconv::Runner& runner, const SplitNetwork& net, const std::shared_ptr<Gpus>& cuda, std::int64_t batch,
              int seed, unsigned on_gpu, int device) {
  std::vector<std::vector<float>> given;
  std::vector<CallersTensor> inputs;
  std::vector<CallersTensor> outputs;
  std::vector<plainconv::ConstTensor> reads;
  std::vector<plainconv::Tensor> writes;
  unsigned bit = 1;
  for (std::size_t i = 0; i < net.manifest.inputs.size(); ++i, bit <<= 1U) {
    given.push_back(values_of(batch, seed + static_cast<int>(i)));
    inputs.emplace_back(*cuda, given.back(), (on_gpu & bit) != 0 ? device : plainconv::host_memory);
  }
  for (std::size_t i = 0; i < net.manifest.outputs.size(); ++i, bit <<= 1U) {
    outputs.emplace_back(*cuda, std::vector<float>(given[0].size(), -1.F),
                         (on_gpu & bit) != 0 ? device : plainconv::host_memory);
  }
  for (auto& input : inputs) {
    const auto view = input.view();
    reads.push_back({view.dtype, view.shape, view.bytes, view.memory});
  }
  std::ranges::transform(outputs, std::back_inserter(writes), &CallersTensor::view);
  runner.run(reads, writes);
  Result result{{}, net.reference(given)};
  std::ranges::transform(outputs, std::back_inserter(result.found), &CallersTensor::values);
  return result;
}

bool right(plainconv::Runner& runner, const SplitNetwork& net, const std::shared_ptr<Gpus>& cuda, int seed,
           std::int64_t batch) {
  return called(runner, net, cuda, batch, seed).right();
}

std::shared_ptr<Gpus> a_cuda(unsigned seed) {
  standin::fresh_library();
  return std::make_shared<Gpus>(seed);
}

void check_clean(const Gpus& cuda) {
  CHECK(cuda.broken() == "");
  CHECK(cuda.empty());
  CHECK(standin::objects() == 0);
  CHECK(cudaGetLastError() == cudaSuccess);
}

std::string refused(plainconv::Runner& runner, const SplitNetwork& net, const std::shared_ptr<Gpus>& cuda,
                    std::int64_t batch, unsigned on_gpu, int device) {
  const auto error =
      thrown_by<plainconv::EngineError>([&] { (void)called(runner, net, cuda, batch, 1, on_gpu, device); });
  CHECK(error.find('\n') == std::string::npos);
  return error;
}
