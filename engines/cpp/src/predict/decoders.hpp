// What the decoders of files give, and what a file's head is read with. Built where libpng and libjpeg-turbo are.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "predict/image.hpp"

namespace plainconv {

/// What PNG or JPEG says before its pixels; nothing where the bytes are neither.
[[nodiscard]] std::optional<ImageHead> head_of_png(std::span<const std::byte> file);
[[nodiscard]] std::optional<ImageHead> head_of_jpeg(std::span<const std::byte> file);

/// The pixels as they lie in the file, of 1, 3 or 4 channels; false where it is damaged.
[[nodiscard]] bool decode_png(std::span<const std::byte> file, Image& image);
[[nodiscard]] bool decode_jpeg(std::span<const std::byte> file, Image& image);

}  // namespace plainconv
