// Which pixels of an image a box holds, of the numbers that a network gives for it.
#pragma once

#include <array>

#include "predict/answers.hpp"

namespace plainconv {

/// Real numbers [h, w] cover the box: bilinear between their centres, 0 around them, from ½ on they count. Whole ones
/// cover the input, and count where they are not 0.
[[nodiscard]] Mask pasted(const Row& from, const std::array<double, 4>& xyxy, const Geometry& where);

}  // namespace plainconv
