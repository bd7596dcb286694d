#include "predict/geometry.hpp"

#include <algorithm>
#include <cmath>

#include "plainconv/bundle.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

/// over / under, halves up, from 1 to `most`.
std::int64_t rounded(std::int64_t over, std::int64_t under, std::int64_t most) {
  return std::min(most, std::max<std::int64_t>(1, (2 * over + under) / (2 * under)));
}

Size resized(const Resize& resize, const Size& image) {
  const auto [height, width] = image;
  const auto& size = resize.size;
  const std::int64_t low = std::min(height, width);
  const std::int64_t high = std::max(height, width);
  if (resize.rule == "exact") {
    return {size[0], size[1]};
  }
  if (resize.rule == "letterbox") {
    if (size[0] * width <= size[1] * height) {
      return {size[0], rounded(width * size[0], height, size[1])};
    }
    return {rounded(height * size[1], width, size[0]), size[1]};
  }
  Size sides{};  // the longer, the shorter
  if (resize.rule == "longest") {
    sides = {size[0], rounded(low * size[0], high, size[0])};
  } else {
    sides = {std::max<std::int64_t>(1, high * size[0] / low), size[0]};
    if (size.size() == 2 && sides[0] > size[1]) {
      sides = {size[1], std::max<std::int64_t>(1, low * size[1] / high)};
    }
  }
  return height >= width ? sides : Size{sides[1], sides[0]};
}

/// Half of it, halves to even.
std::int64_t middle(std::int64_t gap) { return gap / 2 + (gap % 4 == 3 ? 1 : 0); }

std::string said(const Size& size) { return text(size[1], "×", size[0]); }

}  // namespace

std::array<double, 4> Geometry::to_image(const std::array<double, 4>& box) const noexcept {
  std::array<double, 4> mapped{};
  for (std::size_t i = 0; i < mapped.size(); ++i) {
    const std::size_t axis = 1 - i % 2;  // x first
    const auto side = static_cast<double>(image[axis]);
    const double at = (box[i] - static_cast<double>(shift[axis])) * (side / static_cast<double>(resized[axis]));
    mapped[i] = std::min(std::max(at, 0.0), side);
  }
  return mapped;
}

std::vector<Crop> crops_of(const Preprocessing& wanted, const Geometry& where) {
  std::vector<Crop> crops = {{where.shift}};
  if (wanted.crops > 1) {
    const std::int64_t down = where.input[0] - where.resized[0];
    const std::int64_t across = where.input[1] - where.resized[1];
    for (const Size& shift : {Size{0, 0}, Size{0, across}, Size{down, 0}, Size{down, across}}) {
      crops.push_back({shift});
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(wanted.crops) / 2; ++i) {
      crops.push_back({crops[i].shift, true});
    }
  }
  return crops;
}

std::vector<std::int64_t> places_along(const Geometry& where, std::size_t axis, std::int64_t size) {
  std::vector<std::int64_t> places;
  const double scale = static_cast<double>(where.resized[axis]) / static_cast<double>(where.image[axis]);
  const auto input = static_cast<double>(where.input[axis]);
  for (std::int64_t i = 0; i < where.image[axis]; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale + static_cast<double>(where.shift[axis]);
    const auto place = static_cast<std::int64_t>(std::floor(centre * (static_cast<double>(size) / input)));
    places.push_back(centre >= 0 && centre < input ? std::clamp<std::int64_t>(place, 0, size - 1) : -1);
  }
  return places;
}

Geometry geometry_of(const Preprocessing& wanted, const Size& image,
                     const std::array<std::optional<std::int64_t>, 2>& given) {
  Geometry found{image, wanted.resize ? resized(*wanted.resize, image) : image, {0, 0}, {}};
  found.input = found.resized;
  if (wanted.letterbox && wanted.resize) {
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const std::int64_t side = found.resized[axis];
      const auto stride = wanted.letterbox->stride;
      found.input[axis] = stride ? (side + *stride - 1) / *stride * *stride : wanted.resize->size[axis];
      found.shift[axis] = wanted.letterbox->place == "corner" ? 0 : (found.input[axis] - side) / 2;
    }
  } else if (wanted.crop) {
    found.input = {wanted.crop->at(0), wanted.crop->at(1)};
    if (found.resized[0] < found.input[0] || found.resized[1] < found.input[1]) {
      throw ImageError(text("the image is ", said(found.resized), ", its middle ", said(found.input),
                            " is wanted; give a larger one"));
    }
    for (std::size_t axis = 0; axis < 2; ++axis) {
      found.shift[axis] = -middle(found.resized[axis] - found.input[axis]);
    }
  }
  const auto differs = [&](std::size_t axis) { return given[axis] && *given[axis] != found.input[axis]; };
  if (differs(0) || differs(1)) {
    const auto side = [&](std::size_t axis) { return given[axis] ? text(*given[axis]) : "any"; };
    throw ImageError(text("the image makes an input of ", said(found.input), ", the network takes ", side(1), "×",
                          side(0), "; give one of that size"));
  }
  return found;
}

}  // namespace plainconv
