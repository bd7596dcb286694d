// ONNX Runtime on the CPU, as a backend: a network whole, or its parts on groups of this machine's cores.
#pragma once

#include <memory>
#include <string>

#include "backends.hpp"

namespace plainconv {

/// See Backend::load.
[[nodiscard]] std::unique_ptr<Runner> load_by_onnxruntime(const Bundle& bundle, const std::string& precision,
                                                          const Options& options);

/// See Backend::load_split. Each place is a thread on cores of its own.
[[nodiscard]] std::unique_ptr<Runner> load_split_by_onnxruntime(const Bundle& bundle, const SplitRecord& split,
                                                                const Options& options);

}  // namespace plainconv
