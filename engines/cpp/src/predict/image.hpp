// An image file as upright 8-bit pixels: PNG by libpng, JPEG by libjpeg-turbo, as Python's `engines.predict.images`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plainconv/bundle.hpp"

namespace plainconv {

/// Of an image from a file: Pillow's own limit, beyond which it takes one for a bomb.
inline constexpr std::int64_t most_pixels = (std::int64_t{1} << 25) * 8 / 3;

/// Rows of pixels of `channels` bytes: 1 a shade of gray, 3 RGB, 4 RGB and how opaque.
struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 3;
  std::vector<std::uint8_t> bytes;
};

/// What an image file says of its pixels; `orientation` as EXIF numbers it, 1 where it is upright.
struct ImageHead {
  std::string_view kind;
  std::int64_t height = 0;
  std::int64_t width = 0;
  int orientation = 1;
};

/// An image in RGB or shades of gray, upright, and in words what was done.
struct Upright {
  Image image;
  std::string said;
};

/// No pixel is decoded. Throws ImageError where the bytes are no PNG or JPEG, or have more than `most` pixels; `name`
/// is what they are called. EngineError where the library was built without the decoders.
[[nodiscard]] ImageHead head_of(std::span<const std::byte> file, std::string_view name,
                                std::int64_t most = most_pixels);

/// The pixels, in gray or RGB as `color` says; what is transparent is white. Throws ImageError for a damaged file.
[[nodiscard]] Upright upright(std::span<const std::byte> file, const ImageHead& head, std::string_view color);
[[nodiscard]] Upright upright(const Pixels& image, std::string_view color);

/// The file's bytes. Throws ImageError where it cannot be read.
[[nodiscard]] std::vector<std::byte> bytes_of_image(const std::filesystem::path& file);

}  // namespace plainconv
