#include "batch_axis.hpp"

#include <algorithm>
#include <string>

namespace plainconv::serve {

bool has_batch_axis(std::span<const TensorSpec> inputs, std::span<const TensorSpec> outputs) {
  const std::string* name = nullptr;
  const auto is_right = [&](const TensorSpec& spec) {
    const auto* first = spec.shape.empty() ? nullptr : std::get_if<std::string>(&spec.shape.front());
    if (first == nullptr || (name != nullptr && *name != *first)) {
      return false;
    }
    name = first;
    return std::find(spec.shape.begin() + 1, spec.shape.end(), Axis(*first)) == spec.shape.end();
  };
  return !inputs.empty() && std::ranges::all_of(inputs, is_right) && std::ranges::all_of(outputs, is_right);
}

bool same_tails(std::span<const ConstTensor> a, std::span<const ConstTensor> b) noexcept {
  return std::ranges::equal(a, b, [](const ConstTensor& x, const ConstTensor& y) {
    return std::ranges::equal(x.shape.subspan(1), y.shape.subspan(1));
  });
}

}  // namespace plainconv::serve
