// Pixels of an image → the numbers of an input: x = (v·scale − mean) / std, in float64, rounded once to its type.
#pragma once

#include "predict/geometry.hpp"
#include "predict/image.hpp"

namespace plainconv {

/// One input, a row a crop, the last as often as makes `rows` at least, in the layout and type of `wanted`.
[[nodiscard]] Array input_of(Image image, const Preprocessing& wanted, const Geometry& where, std::int64_t rows);

}  // namespace plainconv
