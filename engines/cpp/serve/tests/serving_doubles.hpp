// What the tests of the server share: a runtime that sums rows, and can be held, or fail.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "doubles.hpp"

/// Lets runs through one by one, or all.
class Gate {
 public:
  void open() {
    const std::scoped_lock lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  /// Wait until that many runs have come to it.
  void wait_for(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int arrived_ = 0;
};

/// x [N, 4] to y [N, 1], the sum of each row. A row that begins with -1 fails its run, one with -2 loses the device.
class SummingRunner : public plainconv::Runner {
 public:
  SummingRunner(Gate* gate, std::vector<std::int64_t>* batches) : gate_(gate), batches_(batches) {}

  void run(std::span<const plainconv::ConstTensor> inputs, std::span<const plainconv::Tensor> outputs) override {
    if (gate_ != nullptr) {
      gate_->pass();
    }
    const auto rows = static_cast<std::size_t>(inputs[0].shape[0]);
    if (batches_ != nullptr) {
      const std::scoped_lock lock(mutex_);
      batches_->push_back(inputs[0].shape[0]);
    }
    for (std::size_t row = 0; row < rows; ++row) {
      std::array<float, 4> x{};
      std::memcpy(x.data(), inputs[0].bytes.data() + row * sizeof(x), sizeof(x));
      if (x[0] == -1) {
        throw plainconv::EngineError("the graph fails, at /a/path");
      }
      is_lost_ = is_lost_ || x[0] == -2;
      if (is_lost_) {
        throw plainconv::EngineError("GPU 0 failed");
      }
      const float sum = x[0] + x[1] + x[2] + x[3];
      std::memcpy(outputs[0].bytes.data() + row * sizeof(sum), &sum, sizeof(sum));
    }
  }
  std::vector<plainconv::Array> run_to_arrays(std::span<const plainconv::ConstTensor> inputs) override {
    plainconv::Array y{plainconv::DType::float32, {inputs[0].shape[0], 1}, {}};
    y.bytes.resize(static_cast<std::size_t>(inputs[0].shape[0]) * sizeof(float));
    const std::array outputs{plainconv::Tensor{y.dtype, y.shape, y.bytes}};
    run(inputs, outputs);
    return {y};
  }

  [[nodiscard]] bool lost() const noexcept override { return is_lost_; }

 private:
  std::atomic<bool> is_lost_ = false;
  Gate* gate_;
  std::vector<std::int64_t>* batches_;
  std::mutex mutex_;
};

/// `x float32[N, 4] -> y float32[N, last]` on that runtime; with a `last` that is a name, the shape is not known
/// before.
inline plainconv::Network summing_network(Gate* gate = nullptr, std::vector<std::int64_t>* batches = nullptr,
                                          plainconv::Axis last = 1) {
  plainconv::Bundle bundle;
  bundle.manifest.name = "sums of rows";
  bundle.manifest.inputs = {{"x", "float32", {std::string("N"), 4}}};
  bundle.manifest.outputs = {{"y", "float32", {std::string("N"), std::move(last)}}};
  return {bundle, "summing", "fp32", std::make_unique<SummingRunner>(gate, batches)};
}
