// Which of a bundle's engines this machine can run, and which of these is the fastest. The same answers as Python's.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bundle/reader.hpp"
#include "cuda/cuda_driver.hpp"
#include "reasons.hpp"
#include "tensorrt/runner.hpp"

namespace plainconv {

/// What engines must suit: the runtime that this library was built with, its version, and the GPUs by their numbers.
struct Here {
  std::string backend;
  std::string version;  // empty, as `backend` is, where it was built with none
  std::function<Gpu(int)> gpu = find_gpu;
};

/// A split, and engines of its parts in their order that were built alike.
struct SplitEngines {
  const SplitRecord* split = nullptr;
  std::vector<const EngineRecord*> engines;
};

/// Why the GPU of that number cannot run an engine, with the remedy; nothing where it can.
[[nodiscard]] std::optional<std::string> why_not_run(const EngineRecord& record, int number, const Here& here);

/// How fast an engine is to be taken for, the fastest first: the rank of its backend, then of its precision.
using Speed = std::pair<std::size_t, std::size_t>;
[[nodiscard]] Speed speed_of(const EngineRecord& record);

/// The engines of the backend and precision that are asked for, the fastest first.
[[nodiscard]] std::vector<const EngineRecord*> engines_for(const Bundle& bundle, const Options& options);

/// The same for the parts of splits. Throws EngineError where there is no such split.
[[nodiscard]] std::vector<SplitEngines> sets_for(const Bundle& bundle, const Options& options);

/// What to say where nothing of a bundle runs by `backend`: the first of the reasons, or that it has no such engine.
[[nodiscard]] std::string why_none_runs(const Bundle& bundle, const Options& options, std::string_view backend,
                                        const Reasons& reasons);

/// What the engines of all parts cover of the network's own inputs, profile by profile.
[[nodiscard]] EngineProfiles profiles_of(const SplitEngines& chosen);

}  // namespace plainconv
