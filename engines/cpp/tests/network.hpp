// Networks in parts whose engines the stand-in for TensorRT runs: how they are split, their ONNX files, and what the
// whole of each gives.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "standin/library.hpp"
#include "tensorrt/runner.hpp"

inline constexpr std::int64_t row = 4;  // every value is float32[batch, 4]

/// The smallest and the largest of each profile.
using Batches = std::vector<std::pair<std::int64_t, std::int64_t>>;

/// A network in parts: output k of part p of inputs x is s of s = 10·p + k, s ← s/2 + x for each x.
struct SplitNetwork {
  plainconv::Manifest manifest;
  plainconv::SplitRecord split;
  std::vector<std::shared_ptr<standin::EngineFacts>> engines;
  Batches batches = {{1, 4}};  // none: of batch 2 alone
  std::size_t scratch = 0;
  std::map<std::size_t, std::set<std::string>> refuses;  // of the engines that will be made, from the start
  std::chrono::duration<double> timeout = std::chrono::seconds(60);
  plainconv::EngineUse use = {};

  [[nodiscard]] std::vector<plainconv::Axis> shape() const;
  [[nodiscard]] std::int64_t batch() const { return batches.empty() ? 2 : 0; }
  void add_input(const std::string& name);
  void add_output(const std::string& name, std::optional<std::string> part);
  /// `reads` are pairs of a part (none: the network's input) and a name.
  void add_part(const std::string& name, std::int64_t device, std::int64_t stream,
                const std::vector<std::pair<std::optional<std::string>, std::string>>& reads,
                const std::vector<std::string>& writes);
  /// The bytes of the engine of a part.
  [[nodiscard]] std::string engine_bytes(std::size_t at) const;
  plainconv::PartEngine engine(plainconv::Cuda& cuda, std::size_t at, int device);
  [[nodiscard]] plainconv::EngineProfiles profiles() const;
  std::unique_ptr<plainconv::TensorRTRunner> runner(const std::vector<int>& devices);
  /// What ONNX Runtime gives of the whole network.
  [[nodiscard]] std::vector<std::vector<float>> reference(const std::vector<std::vector<float>>& inputs) const;
};

/// A stem on device 0, a branch there and one on device 1, and what joins them on device 0.
SplitNetwork diamond(Batches batches = {{1, 4}});
/// A whole network: two inputs, two outputs, one engine.
SplitNetwork whole(Batches batches = {{1, 4}});
/// Of one input and one output, as engines for one batch alone want it.
SplitNetwork small(Batches batches = {});
