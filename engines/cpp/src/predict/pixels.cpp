#include "predict/pixels.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "halves.hpp"
#include "predict/resize.hpp"

namespace plainconv {
namespace {

constexpr std::size_t shades = 256;
constexpr std::size_t most_size = 8;  // bytes of a number
using Number = std::array<std::byte, most_size>;

template <class T>
Number bytes_of(T value) {
  Number number{};
  std::memcpy(number.data(), &value, sizeof(T));
  return number;
}

Number number_of(const Preprocessing& wanted, std::size_t channel, double shade) {
  const double x = (shade * wanted.scale - wanted.mean[channel]) / wanted.std[channel];
  if (wanted.type == "uint8") {
    return bytes_of(static_cast<std::uint8_t>(std::floor(x + 0.5)));
  }
  if (wanted.type == "float16") {
    return bytes_of(half_of(x));
  }
  if (wanted.type == "bfloat16") {
    return bytes_of(bfloat_of(x));
  }
  return wanted.type == "float32" ? bytes_of(float_of(x)) : bytes_of(x);
}

}  // namespace

Array input_of(Image image, const Preprocessing& wanted, const Geometry& where, std::int64_t rows) {
  if (wanted.resize) {
    image = resized(std::move(image), where.resized, wanted.resize->interpolation, wanted.resize->antialias);
  }
  const auto [height, width] = where.input;
  const auto crops = crops_of(wanted, where);
  rows = std::max<std::int64_t>(rows, std::ssize(crops));
  const bool is_nchw = wanted.layout == "nchw";
  const DType dtype = *dtype_of_name(wanted.type);
  const std::size_t size = size_of(dtype);
  const auto channels = static_cast<std::size_t>(image.channels);
  const auto pixels = static_cast<std::size_t>(height * width);
  Array x{dtype, {rows, image.channels, height, width}, {}};
  if (!is_nchw) {
    x.shape = {rows, height, width, image.channels};
  }
  std::vector<std::byte> row(channels * pixels * size);
  for (const auto& [shift, is_mirrored] : crops) {
    for (std::size_t c = 0; c < channels; ++c) {
      const std::size_t channel = wanted.color == "bgr" ? 2 - c : c;  // of the image
      const Number around = number_of(wanted, c, wanted.letterbox ? wanted.letterbox->value[c] : 0);
      std::array<Number, shades> table{};
      for (std::size_t shade = 0; shade < shades; ++shade) {
        table.at(shade) = number_of(wanted, c, static_cast<double>(shade));
      }
      for (std::int64_t i = 0; i < height * width; ++i) {
        const std::int64_t column = is_mirrored ? width - 1 - i % width : i % width;
        const std::int64_t y = i / width - shift[0];
        const std::int64_t x_at = column - shift[1];
        const bool is_inside = y >= 0 && y < image.height && x_at >= 0 && x_at < image.width;
        const auto at = static_cast<std::size_t>((y * image.width + x_at) * image.channels) + channel;
        const Number& number = is_inside ? table.at(image.bytes[at]) : around;
        const auto pixel = static_cast<std::size_t>(i);
        std::memcpy(&row[(is_nchw ? c * pixels + pixel : pixel * channels + c) * size], number.data(), size);
      }
    }
    x.bytes.insert(x.bytes.end(), row.begin(), row.end());
  }
  for (auto i = std::ssize(crops); i < rows; ++i) {
    x.bytes.insert(x.bytes.end(), row.begin(), row.end());
  }
  return x;
}

}  // namespace plainconv
