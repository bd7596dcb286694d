// Bytes of a file, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace plainconv {

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool has(std::size_t count) const noexcept { return count <= bytes_.size() - at_; }
  [[nodiscard]] std::size_t left() const noexcept { return bytes_.size() - at_; }
  /// The next ones, as many as there are of `most`.
  [[nodiscard]] std::span<const std::byte> peek(std::size_t most) const noexcept {
    return bytes_.subspan(at_, most < left() ? most : left());
  }
  /// To be called where there are so many.
  std::span<const std::byte> take(std::size_t count) noexcept {
    const auto taken = bytes_.subspan(at_, count);
    at_ += count;
    return taken;
  }

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

/// A whole number of the first `count` bytes, the most significant first, or the least.
[[nodiscard]] inline std::uint32_t number_of(std::span<const std::byte> bytes, std::size_t count,
                                             bool is_little = false) noexcept {
  std::uint32_t number = 0;
  for (std::size_t i = 0; i < count; ++i) {
    number = (number << 8U) | std::to_integer<std::uint32_t>(bytes[is_little ? count - 1 - i : i]);
  }
  return number;
}

[[nodiscard]] inline std::string_view text_in(std::span<const std::byte> bytes) noexcept {
  // NOLINTNEXTLINE(*-reinterpret-cast): bytes are text here
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace plainconv
