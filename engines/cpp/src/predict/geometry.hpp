// Where the pixels of an image come to lie in an input, in whole pixels; and back.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

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

/// Where a crop of an image begins, as a `Geometry` has it, and whether it is mirrored.
struct Crop {
  Size shift;
  bool is_mirrored = false;
};

/// Of ten crops the middle, top left, top right, bottom left, bottom right, then the mirror images of these; else one.
[[nodiscard]] std::vector<Crop> crops_of(const Preprocessing& wanted, const Geometry& where);

/// Of each of the image's rows or columns its place along an output of that size; −1 where the input lacks it.
[[nodiscard]] std::vector<std::int64_t> places_along(const Geometry& where, std::size_t axis, std::int64_t size);

/// For an image of that size, and an input whose sides are `given`, nothing where they are open. Throws ImageError
/// where the image would have to have another size.
[[nodiscard]] Geometry geometry_of(const Preprocessing& wanted, const Size& image,
                                   const std::array<std::optional<std::int64_t>, 2>& given);

}  // namespace plainconv
