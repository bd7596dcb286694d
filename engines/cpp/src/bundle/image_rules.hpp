// Whether what a manifest says of images fits its inputs and outputs.
#pragma once

#include "bundle/manifest.hpp"
#include "bundle/problems.hpp"

namespace plainconv {

/// Of a manifest whose inputs and outputs are tensors.
[[nodiscard]] Problems image_problems(const Manifest& manifest);

}  // namespace plainconv
