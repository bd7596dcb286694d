// How long a call of a network takes.
#pragma once

#include <random>
#include <span>
#include <string>
#include <vector>

#include "plainconv/bundle.hpp"

namespace plainconv::tools {

/// Numbers that any network takes: standard normal, or 0 and 1. Throws Error: free axes have no size by themselves.
[[nodiscard]] Array random_array(const TensorSpec& spec, std::mt19937& random);

/// One line: the network, the shapes of `inputs`, p50, p90 and p99 of that many calls, after a tenth as many that do
/// not count. The calls write into `results`.
[[nodiscard]] std::string measured(const Network& net, std::span<const ConstTensor> inputs, std::span<Array> results,
                                   int calls);

}  // namespace plainconv::tools
