// How a camera held an image: EXIF's tag 0x0112, or what XMP says in its place.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

namespace plainconv {

/// Of a TIFF header and its first directory; nothing where they have none.
[[nodiscard]] std::optional<int> orientation_of_exif(std::span<const std::byte> tiff);
[[nodiscard]] std::optional<int> orientation_of_xmp(std::string_view xmp);

}  // namespace plainconv
