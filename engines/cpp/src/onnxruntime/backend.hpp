// ONNX Runtime on the CPU, as a backend: a network whole, or its parts on groups of this machine's cores.
#pragma once

#include <memory>
#include <optional>

#include "backends.hpp"

namespace plainconv {

/// See Backend::load. It always loads something, or throws.
[[nodiscard]] std::optional<Loaded> load_by_onnxruntime(const Bundle& bundle, const Options& options, Reasons& reasons);

/// A runner for the parts of a split, one of `devices` each of its own. Each place is a thread on cores of its own.
[[nodiscard]] std::unique_ptr<Runner> split_by_onnxruntime(const Bundle& bundle, const SplitRecord& split,
                                                           const Options& options);

}  // namespace plainconv
