#include "predict/resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace plainconv {
namespace {

/// One axis of an image: the lines before it, its places, and what lies behind each of them.
struct Axis3 {
  std::size_t outer;
  std::size_t old_size;
  std::size_t new_size;
  std::size_t inner;
};

Axis3 axis_of(const Image& image, std::size_t axis, std::int64_t size) {
  const auto channels = static_cast<std::size_t>(image.channels);
  const auto height = static_cast<std::size_t>(image.height);
  const auto width = static_cast<std::size_t>(image.width);
  const auto wanted = static_cast<std::size_t>(size);
  return axis == 0 ? Axis3{1, height, wanted, width * channels} : Axis3{height, width, wanted, channels};
}

/// The taps of each new place: the first old one, and weights from there on.
template <class T>
struct Taps {
  struct At {
    std::size_t first;
    std::size_t count;
    std::size_t weights;  // where they begin
  };
  std::vector<At> places;
  std::vector<T> weights;
};

/// Cubic convolution with that parameter, of a distance.
double cubic(double x, double a) {
  x = std::fabs(x);
  if (x < 1) {
    return ((a + 2) * x - (a + 3)) * x * x + 1;
  }
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double linear(double x) { return std::max(0.0, 1 - std::fabs(x)); }

/// Pillow's: a filter as wide as the step, cut at the border, its weights in whole 2^-22.
Taps<std::int32_t> wide_taps(std::size_t old_size, std::size_t new_size, bool is_cubic) {
  constexpr double one = 1 << 22;
  Taps<std::int32_t> taps;
  const double scale = static_cast<double>(old_size) / static_cast<double>(new_size);
  const double step = std::max(scale, 1.0);
  const double support = (is_cubic ? 2.0 : 1.0) * step;
  const double narrowing = 1.0 / step;
  for (std::size_t i = 0; i < new_size; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const auto first = static_cast<std::size_t>(std::max(0.0, centre - support + 0.5));
    const auto end = std::min(static_cast<std::size_t>(centre + support + 0.5), old_size);
    std::vector<double> weights;
    double sum = 0;
    for (std::size_t x = first; x < end; ++x) {
      const double at = (static_cast<double>(x) - centre + 0.5) * narrowing;
      weights.push_back(is_cubic ? cubic(at, -0.5) : linear(at));
      sum += weights.back();
    }
    taps.places.push_back({first, weights.size(), taps.weights.size()});
    for (const double weight : weights) {
      const double share = (sum != 0 ? weight / sum : weight) * one;
      taps.weights.push_back(static_cast<std::int32_t>(share < 0 ? share - 0.5 : share + 0.5));
    }
  }
  return taps;
}

void resize_wide(Image& image, std::size_t axis, std::int64_t size, bool is_cubic) {
  constexpr unsigned bits = 22;
  const auto [outer, old_size, new_size, inner] = axis_of(image, axis, size);
  const auto taps = wide_taps(old_size, new_size, is_cubic);
  std::vector<std::uint8_t> made(outer * new_size * inner);
  std::vector<std::int32_t> sums(inner);
  auto to = made.begin();
  for (std::size_t line = 0; line < outer; ++line) {
    for (const auto& place : taps.places) {
      std::ranges::fill(sums, 1 << (bits - 1));
      for (std::size_t tap = 0; tap < place.count; ++tap) {
        const std::int32_t weight = taps.weights[place.weights + tap];
        const std::uint8_t* from = &image.bytes[(line * old_size + place.first + tap) * inner];
        for (std::size_t i = 0; i < inner; ++i) {
          sums[i] += from[i] * weight;  // NOLINT(*-pointer-arithmetic)
        }
      }
      to = std::ranges::transform(sums, to, [](std::int32_t sum) {
             return static_cast<std::uint8_t>(std::clamp(sum >> bits, 0, 255));
           }).out;
    }
  }
  image.bytes = std::move(made);
  (axis == 0 ? image.height : image.width) = size;
}

/// The nearest 2 or 4 around (i + ½)·old / new − ½, the border repeated.
std::vector<double> resize_near(const std::vector<double>& pixels, const Axis3& axis, bool is_cubic) {
  constexpr double a = -0.75;
  const auto [outer, old_size, new_size, inner] = axis;
  const std::int64_t before = is_cubic ? 1 : 0;
  std::vector<double> made(outer * new_size * inner);
  for (std::size_t i = 0; i < new_size; ++i) {
    const double at =
        (static_cast<double>(i) + 0.5) * (static_cast<double>(old_size) / static_cast<double>(new_size)) - 0.5;
    const double first = std::floor(at);
    const double t = at - first;
    const auto near = [&](double d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
    const auto far = [&](double d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
    const std::vector<double> weights =
        is_cubic ? std::vector{far(t + 1), near(t), near(1 - t), far(2 - t)} : std::vector{1 - t, t};
    for (std::size_t tap = 0; tap < weights.size(); ++tap) {
      const auto index = static_cast<std::int64_t>(first) - before + static_cast<std::int64_t>(tap);
      const auto place =
          static_cast<std::size_t>(std::clamp<std::int64_t>(index, 0, static_cast<std::int64_t>(old_size) - 1));
      for (std::size_t line = 0; line < outer; ++line) {
        for (std::size_t j = 0; j < inner; ++j) {
          made[(line * new_size + i) * inner + j] += pixels[(line * old_size + place) * inner + j] * weights[tap];
        }
      }
    }
  }
  return made;
}

}  // namespace

Image resized(Image image, const Size& size, std::string_view interpolation, bool antialias) {
  const bool is_cubic = interpolation == "bicubic";
  if (image.height == size[0] && image.width == size[1]) {
    return image;
  }
  if (interpolation == "nearest") {
    Image made{size[0], size[1], image.channels, {}};
    for (std::int64_t y = 0; y < size[0]; ++y) {
      for (std::int64_t x = 0; x < size[1]; ++x) {
        const std::int64_t row = (2 * y + 1) * image.height / (2 * size[0]);
        const std::int64_t column = (2 * x + 1) * image.width / (2 * size[1]);
        const auto pixel = image.bytes.begin() + (row * image.width + column) * image.channels;
        made.bytes.insert(made.bytes.end(), pixel, pixel + image.channels);
      }
    }
    return made;
  }
  if (antialias) {
    const bool rows_first = size[0] < image.height && image.height - size[0] > 2 * (image.width - size[1]);
    for (const std::size_t axis : {rows_first ? 0U : 1U, rows_first ? 1U : 0U}) {
      if (size[axis] != (axis == 0 ? image.height : image.width)) {
        resize_wide(image, axis, size[axis], is_cubic);
      }
    }
    return image;
  }
  std::vector<double> pixels(image.bytes.begin(), image.bytes.end());
  pixels = resize_near(pixels, axis_of(image, 0, size[0]), is_cubic);
  image.height = size[0];
  pixels = resize_near(pixels, axis_of(image, 1, size[1]), is_cubic);
  image.width = size[1];
  image.bytes.resize(pixels.size());
  std::ranges::transform(pixels, image.bytes.begin(), [](double pixel) {
    return static_cast<std::uint8_t>(std::floor(std::clamp(pixel, 0.0, 255.0) + 0.5));
  });
  return image;
}

}  // namespace plainconv
