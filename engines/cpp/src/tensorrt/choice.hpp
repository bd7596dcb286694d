// Which of a bundle's engines this machine can run, and which of these is the fastest. The same answers as Python's.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bundle/reader.hpp"
#include "cuda/cuda_driver.hpp"
#include "tensorrt/runner.hpp"

namespace plainconv {

/// What engines must suit: the runtime that this library was built with, its version, and the GPUs by their numbers.
struct Here {
  std::string backend;
  std::string version;
  std::function<Gpu(int)> gpu = find_gpu;
};

/// A split, and engines of its parts in their order that were built alike.
struct SplitEngines {
  const SplitRecord* split = nullptr;
  std::vector<const EngineRecord*> engines;
};

/// Why the GPU of that number cannot run an engine, with the remedy; nothing where it can.
[[nodiscard]] std::optional<std::string> why_not_run(const EngineRecord& record, int number, const Here& here);

/// The fastest engine of a precision, or of any where that is "auto", that the GPU of that number can run.
///
/// Throws CannotRunError with the reason of the first that it cannot.
[[nodiscard]] const EngineRecord& engine_for(const Bundle& bundle, const std::string& precision, int number,
                                             const Here& here);

/// The same for the parts of a split: its device i is the GPU `numbers[i]`.
[[nodiscard]] SplitEngines engines_for(const Bundle& bundle, const std::string& precision, std::span<const int> numbers,
                                       const Here& here);

/// What the engines of all parts cover of the network's own inputs, profile by profile.
[[nodiscard]] EngineProfiles profiles_of(const SplitEngines& chosen);

}  // namespace plainconv
