#include "halves.hpp"

#include <bit>
#include <cmath>
#include <limits>

namespace plainconv {

float float_of(double value) noexcept {
  constexpr double beyond = 0x1.ffffffp127;  // halfway between the largest and what would be next: it rounds up
  if (std::fabs(value) >= beyond) {
    return std::copysign(std::numeric_limits<float>::infinity(), value < 0 ? -1.0F : 1.0F);
  }
  return static_cast<float>(value);
}

std::uint16_t half_of(double value) noexcept {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000U : 0U);
  const double size = std::fabs(value);
  constexpr double beyond = 65520;  // what rounds to 65536
  constexpr double least_normal = 0x1p-14;
  if (!(size < beyond)) {
    return static_cast<std::uint16_t>(sign | (std::isnan(value) ? 0x7E00U : 0x7C00U));
  }
  if (size < least_normal) {
    return static_cast<std::uint16_t>(sign + static_cast<unsigned>(std::nearbyint(std::ldexp(size, 24))));
  }
  int exponent = 0;
  const double fraction = std::frexp(size, &exponent);                                    // in [0.5, 1)
  const auto mantissa = static_cast<unsigned>(std::nearbyint(std::ldexp(fraction, 11)));  // 1024 to 2048, which carries
  return static_cast<std::uint16_t>(sign + (static_cast<unsigned>(exponent + 13) << 10U) + mantissa);
}

float float_of_half(std::uint16_t half) noexcept {
  const unsigned exponent = (half >> 10U) & 31U;
  const unsigned mantissa = half & 1023U;
  float size = 0;
  if (exponent == 31) {
    size = mantissa == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    size = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    size = std::ldexp(static_cast<float>(mantissa + 1024U), static_cast<int>(exponent) - 25);
  }
  return (half & 0x8000U) != 0 ? -size : size;
}

std::uint16_t bfloat_of(double value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(float_of(value));
  if (std::isnan(value)) {
    return 0x7FC0;
  }
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}

float float_of_bfloat(std::uint16_t bfloat) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bfloat) << 16U);
}

}  // namespace plainconv
