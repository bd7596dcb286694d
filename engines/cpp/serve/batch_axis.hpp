// Which requests may share a run: those that differ along axis 0 alone, where the bundle leaves that axis open.
#pragma once

#include <span>

#include "plainconv/bundle.hpp"

namespace plainconv::serve {

/// Whether axis 0 of every input and of every output is open, of one name that no other axis has.
[[nodiscard]] bool has_batch_axis(std::span<const TensorSpec> inputs, std::span<const TensorSpec> outputs);

/// Whether the inputs may be joined along axis 0.
[[nodiscard]] bool same_tails(std::span<const ConstTensor> a, std::span<const ConstTensor> b) noexcept;

}  // namespace plainconv::serve
