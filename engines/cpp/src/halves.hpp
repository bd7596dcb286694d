// Numbers of fewer bits than float64 has: each is rounded once.
#pragma once

#include <cstdint>

namespace plainconv {

/// float32, rounded to the nearest; infinity beyond. (A cast of what float32 does not reach is not defined.)
[[nodiscard]] float float_of(double value) noexcept;
/// IEEE 754 binary16, rounded to the nearest, ties to even.
[[nodiscard]] std::uint16_t half_of(double value) noexcept;
[[nodiscard]] float float_of_half(std::uint16_t half) noexcept;
/// bfloat16, as ml_dtypes has it: by way of float32.
[[nodiscard]] std::uint16_t bfloat_of(double value) noexcept;
[[nodiscard]] float float_of_bfloat(std::uint16_t bfloat) noexcept;

}  // namespace plainconv
