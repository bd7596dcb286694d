// Runs TensorRT or TensorRT-RTX engines, from any number of threads, on tensors of the host or the GPU.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends.hpp"
#include "tensorrt/lane.hpp"

namespace plainconv {

/// What an engine's profiles cover of the network's inputs, profile by profile.
using EngineProfiles = std::vector<std::vector<std::pair<std::string, ShapeRange>>>;

/// As many lanes as there are calls at the same time, each with contexts and buffers of its own.
///
/// What has not ended in time, or a GPU that fails, makes the runner lost: each further call throws at once, and what a
/// GPU may still be at is never freed.
class TensorRTRunner : public Runner {
 public:
  /// Makes a lane for the parts of `split`, whose engines are `parts`, in its order; `devices` are the CUDA devices
  /// that the split's stand for, which may be one for several; tensors in GPU memory are those of the first. `profiles`
  /// are of the network's inputs, none where its shapes are fixed. `timeout` is what a request may take.
  ///
  /// Throws EngineError where the engines are not those of the split, or memory does not suffice.
  TensorRTRunner(std::shared_ptr<Cuda> cuda, const Manifest& manifest, SplitRecord split, std::vector<int> devices,
                 std::vector<PartEngine> parts, const EngineProfiles& profiles, std::chrono::duration<double> timeout);
  TensorRTRunner(const TensorRTRunner&) = delete;
  TensorRTRunner& operator=(const TensorRTRunner&) = delete;
  TensorRTRunner(TensorRTRunner&&) = delete;
  TensorRTRunner& operator=(TensorRTRunner&&) = delete;
  ~TensorRTRunner() override;

  void run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) override;
  [[nodiscard]] std::vector<Array> run_to_arrays(std::span<const ConstTensor> inputs) override;
  [[nodiscard]] bool takes_device_memory() const noexcept override { return true; }
  [[nodiscard]] bool lost() const noexcept override { return is_lost_; }

  /// Why an idle lane does not replay its calls as CUDA graphs; empty where all do.
  [[nodiscard]] std::string why_not_captured();
  /// How many lanes there are.
  [[nodiscard]] std::size_t lanes();

 private:
  void prepare(const Manifest& manifest, std::vector<int> devices, const EngineProfiles& profiles);
  void lose(const std::string& why);
  [[nodiscard]] std::string why_lost() const;
  template <class Act>
  void on_lane(const Act& act);
  void check(std::string_view role, const TensorSpec& spec, const std::byte* data, Memory memory);

  std::shared_ptr<LaneShared> shared_;
  int home_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Lane>> idle_;
  std::size_t made_ = 0;
  std::string lost_;  // why there are no more calls
  std::atomic<bool> is_lost_ = false;
};

/// The record of a whole network as a split of one part without a name.
[[nodiscard]] SplitRecord whole_of(const Manifest& manifest, const std::string& precision);

}  // namespace plainconv
