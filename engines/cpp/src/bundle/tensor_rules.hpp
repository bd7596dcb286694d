// What must hold for the tensors of a manifest. Pure.
#pragma once

#include <cstddef>

#include "bundle/manifest.hpp"
#include "bundle/problems.hpp"

namespace plainconv {

inline constexpr std::size_t dtypes_of_networks = 9;  // and one more between parts

/// `dtypes` are the first so many that a tensor may be of.
[[nodiscard]] Problems tensor_problems(const TensorRecord& spec, std::size_t dtypes);

}  // namespace plainconv
