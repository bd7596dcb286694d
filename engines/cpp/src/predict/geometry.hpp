// Where the pixels of an image come to lie in an input, in whole pixels; and back.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "bundle/manifest.hpp"

namespace plainconv {

using Size = std::array<std::int64_t, 2>;  // height, width

/// y_input = (y + ½)·resized / image + shift − ½ of each axis; a `shift` below 0 is a crop, above it a letterbox.
struct Geometry {
  Size image;
  Size resized;
  Size shift;
  Size input;

  /// x1 y1 x2 y2 in pixels of the input → of the image, within it.
  [[nodiscard]] std::array<double, 4> to_image(const std::array<double, 4>& box) const noexcept;
};

/// For an image of that size, and an input whose sides are `given`, nothing where they are open. Throws ImageError
/// where the image would have to have another size.
[[nodiscard]] Geometry geometry_of(const Preprocessing& wanted, const Size& image,
                                   const std::array<std::optional<std::int64_t>, 2>& given);

}  // namespace plainconv
