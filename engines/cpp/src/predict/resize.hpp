// Images in another size: as Pillow resizes 8-bit images, or as PyTorch's `interpolate` does without antialias.
#pragma once

#include <string_view>

#include "predict/geometry.hpp"
#include "predict/image.hpp"

namespace plainconv {

/// `image` in that size; exporter/BUNDLE.md says which pixels that are. Compiled without fused multiply-adds: its
/// numbers are rounded as Python's.
[[nodiscard]] Image resized(Image image, const Size& size, std::string_view interpolation, bool antialias);

}  // namespace plainconv
