// Memory for a body, where tensors lie as the runtimes want them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace plainconv::serve {

/// Where every tensor of an answer begins, and the first of a request: at a multiple of this.
inline constexpr std::size_t alignment = 64;

/// A body in memory of its own, which the system gives as it is written to.
struct Body {
  std::unique_ptr<std::byte[]> memory;  // NOLINT(*-avoid-c-arrays): a vector would write zeros first
  std::span<std::byte> bytes;
};

/// Memory for `size` bytes, the byte `aligned_at` of them where any number may be.
[[nodiscard]] inline Body body_of(std::size_t size, std::size_t aligned_at) {
  Body body;
  body.memory = std::make_unique_for_overwrite<std::byte[]>(size + alignment);  // NOLINT(*-avoid-c-arrays)
  const auto start = std::bit_cast<std::uintptr_t>(body.memory.get());
  const std::size_t offset = (alignment - (start + aligned_at) % alignment) % alignment;
  body.bytes = {body.memory.get() + offset, size};
  return body;
}

}  // namespace plainconv::serve
