// Non-maximum suppression.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace plainconv {

using Corners = std::array<double, 4>;  // left, top, right, bottom

/// Which boxes stay, at most so many; they are sorted, the best first. One goes where it overlaps a better one that
/// stays, of its own class, by more than `iou`: |A ∩ B| / |A ∪ B|.
[[nodiscard]] std::vector<std::size_t> kept(std::span<const Corners> boxes, std::span<const std::int64_t> labels,
                                            double iou, std::size_t most);

}  // namespace plainconv
