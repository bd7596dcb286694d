#include "predict/suppression.hpp"

#include <algorithm>

namespace plainconv {
namespace {

double side(double low, double high) { return std::max(high - low, 0.0); }

double area_of(const Corners& box) { return side(box[0], box[2]) * side(box[1], box[3]); }

}  // namespace

std::vector<std::size_t> kept(std::span<const Corners> boxes, std::span<const std::int64_t> labels, double iou,
                              std::size_t most) {
  std::vector<std::size_t> found;
  std::vector<bool> is_out(boxes.size());
  for (std::size_t i = 0; i < boxes.size() && found.size() < most; ++i) {
    if (is_out[i]) {
      continue;
    }
    found.push_back(i);
    const Corners& a = boxes[i];
    for (std::size_t j = i + 1; j < boxes.size(); ++j) {
      const Corners& b = boxes[j];
      if (is_out[j] || labels[j] != labels[i]) {
        continue;
      }
      const double common =
          side(std::max(a[0], b[0]), std::min(a[2], b[2])) * side(std::max(a[1], b[1]), std::min(a[3], b[3]));
      is_out[j] = common > iou * (area_of(b) + area_of(a) - common);
    }
  }
  return found;
}

}  // namespace plainconv
