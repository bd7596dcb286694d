// What must hold for the parts that a network is split into. Pure.
#pragma once

#include "bundle/manifest.hpp"
#include "bundle/problems.hpp"

namespace plainconv {

/// What is wrong with the splits: their parts, what these read and give, and their engines.
[[nodiscard]] Problems split_problems(const Manifest& manifest);

}  // namespace plainconv
