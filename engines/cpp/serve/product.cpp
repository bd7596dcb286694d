#include "product.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace plainconv::serve {

std::optional<std::size_t> product(std::span<const std::int64_t> shape, std::size_t factor) noexcept {
  if (std::ranges::find(shape, 0) != shape.end()) {
    return 0;
  }
  for (const std::int64_t size : shape) {
    if (__builtin_mul_overflow(factor, static_cast<std::size_t>(size), &factor)) {
      return std::nullopt;
    }
  }
  return factor;
}

/// Long multiplication, half of each size at a time.
std::string product_in_words(std::span<const std::int64_t> shape, std::size_t factor) {
  if (const auto small = product(shape, factor)) {
    return std::to_string(*small);
  }
  constexpr std::uint64_t base = 1'000'000'000;
  constexpr unsigned half = 32;
  const auto times = [](std::vector<std::uint64_t> limbs, std::uint64_t by) {  // by < 2**32
    std::uint64_t carry = 0;
    for (std::uint64_t& limb : limbs) {
      carry += limb * by;
      limb = std::exchange(carry, carry / base) % base;
    }
    for (; carry != 0; carry /= base) {
      limbs.push_back(carry % base);
    }
    return limbs;
  };
  std::vector<std::uint64_t> limbs = {factor};
  for (const std::int64_t size : shape) {
    const auto all = static_cast<std::uint64_t>(size);
    const auto low = times(limbs, all & UINT32_MAX);
    limbs = times(times(times(limbs, all >> half), 1U << 16U), 1U << 16U);
    limbs.resize(std::max(limbs.size(), low.size()));
    std::uint64_t carry = 0;
    for (std::size_t i = 0; i < limbs.size(); ++i) {
      carry += limbs[i] + (i < low.size() ? low[i] : 0);
      limbs[i] = std::exchange(carry, carry / base) % base;
    }
    if (carry != 0) {
      limbs.push_back(carry);
    }
    while (limbs.size() > 1 && limbs.back() == 0) {
      limbs.pop_back();
    }
  }
  std::string words = std::to_string(limbs.back());
  for (std::size_t i = limbs.size() - 1; i-- > 0;) {
    const std::string digits = std::to_string(limbs[i]);
    words += std::string(9 - digits.size(), '0') + digits;
  }
  return words;
}

}  // namespace plainconv::serve
