// Whether what a manifest says of images fits its inputs and outputs.
#pragma once

#include <optional>
#include <string>

#include "bundle/manifest.hpp"
#include "bundle/problems.hpp"

namespace plainconv {

/// Of a manifest whose inputs and outputs are tensors.
[[nodiscard]] Problems image_problems(const Manifest& manifest);

/// Why answers about crops of an image cannot be averaged, in one line; nothing where they can, or there is one.
[[nodiscard]] std::optional<std::string> not_averaged(const Preprocessing& wanted, const Postprocessing& record);

}  // namespace plainconv
