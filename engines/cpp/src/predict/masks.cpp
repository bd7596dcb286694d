#include "predict/masks.hpp"

#include <cmath>
#include <vector>

namespace plainconv {
namespace {

/// A pixel, the cell of it and the next one, −1 before the first, and the share of the next.
struct Tap {
  std::int64_t pixel = 0;
  std::int64_t cell = 0;
  double share = 0;
};

/// The pixels within a cell of [low, high].
std::vector<Tap> taps_of(double low, double high, std::int64_t pixels, std::int64_t cells) {
  std::vector<Tap> taps;
  for (std::int64_t i = 0; high > low && i < pixels; ++i) {
    const double at = (static_cast<double>(i) + 0.5 - low) / (high - low) * static_cast<double>(cells) - 0.5;
    if (at > -1 && at < static_cast<double>(cells)) {
      const double first = std::floor(at);
      taps.push_back({i, static_cast<std::int64_t>(first), at - first});
    }
  }
  return taps;
}

void cover(Mask& mask, const Row& from, const Geometry& where) {
  const auto rows = places_along(where, 0, from.shape[0]);
  const auto columns = places_along(where, 1, from.shape[1]);
  std::size_t pixel = 0;
  for (const std::int64_t row : rows) {
    for (const std::int64_t column : columns) {
      const bool is_inside = row >= 0 && column >= 0;
      const auto at = static_cast<std::size_t>(row * from.shape[1] + column);
      mask.pixels[pixel++] = is_inside && from.numbers[at] != 0 ? 1 : 0;
    }
  }
}

}  // namespace

Mask pasted(const Row& from, const std::array<double, 4>& xyxy, const Geometry& where) {
  const auto [height, width] = where.image;
  Mask mask{height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(height * width))};
  if (from.is_whole) {
    cover(mask, from, where);
    return mask;
  }
  const auto [left, top, right, bottom] = xyxy;
  const std::int64_t tall = from.shape.at(0);
  const std::int64_t wide = from.shape.at(1);
  const auto number = [&](std::int64_t y, std::int64_t x) {
    const bool is_inside = y >= 0 && y < tall && x >= 0 && x < wide;
    return is_inside ? from.numbers[static_cast<std::size_t>(y * wide + x)] : 0;
  };
  const auto columns = taps_of(left, right, width, wide);
  for (const Tap& row : taps_of(top, bottom, height, tall)) {
    for (const Tap& column : columns) {
      const auto across = [&](std::int64_t y) {
        return number(y, column.cell) * (1 - column.share) + number(y, column.cell + 1) * column.share;
      };
      const double value = across(row.cell) * (1 - row.share) + across(row.cell + 1) * row.share;
      mask.pixels[static_cast<std::size_t>(row.pixel * width + column.pixel)] = value >= 0.5 ? 1 : 0;
    }
  }
  return mask;
}

}  // namespace plainconv
