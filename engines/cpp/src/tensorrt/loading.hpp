// Loads the engines of a bundle: the fastest that run here.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "backends.hpp"
#include "tensorrt/choice.hpp"

namespace plainconv {

/// What engines are loaded with.
struct EngineRuntime {
  std::function<std::shared_ptr<Cuda>()> cuda;
  /// See `engine_of_bytes`.
  std::function<std::unique_ptr<Engine>(std::string_view bytes, const EngineUse& use)> engine;
};

/// See Backend::load. Of engines that run equally fast, those for another GPU are not spoken of where one runs.
[[nodiscard]] std::optional<Loaded> load_engines(const Bundle& bundle, const Options& options, const Here& here,
                                                 const EngineRuntime& runtime, Reasons& reasons);

}  // namespace plainconv
