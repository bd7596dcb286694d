// What must hold for the engines of a manifest. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bundle/manifest.hpp"
#include "bundle/problems.hpp"

namespace plainconv {

/// What an engine may be built from: the precision that it then is (nothing: any), and its inputs.
struct EngineSource {
  std::optional<std::string> precision;
  const std::vector<TensorRecord>* inputs;
};
using EngineSources = std::unordered_map<std::string, EngineSource>;

[[nodiscard]] std::vector<const EngineRecord*> pointers_to(const std::vector<EngineRecord>& records);

/// What is wrong with engines whose links are `step` and that are built from `graphs`, by hash.
[[nodiscard]] Problems problems_of_engines(const Manifest& manifest, const std::vector<const EngineRecord*>& engines,
                                           std::string_view step, const EngineSources& graphs);

/// Links `step` without an engine, or engines without one.
[[nodiscard]] Problems count_problems(const Manifest& manifest, const std::vector<const EngineRecord*>& engines,
                                      std::string_view step);

/// What is wrong with the engines of the whole network.
[[nodiscard]] Problems engine_problems(const Manifest& manifest);

}  // namespace plainconv
