// e^x with the bits that Python's `engines.predict.answers` gives it: a library's own depends on the machine.
#pragma once

#include <array>
#include <cmath>

namespace plainconv {

/// e^x = 2^n · e^r, n = x / ln 2 to the nearest, e^r by its series up to r^11; for x of ±700, 0 far below. To be
/// compiled without fused multiply-adds.
[[nodiscard]] inline double power_of_e(double x) noexcept {
  constexpr double ln2_high = 0x1.62e42feep-1;  // so few bits that n times it is exact
  constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  constexpr double log2_e = 0x1.71547652b82fep+0;
  constexpr std::array<double, 11> factorials = {3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1};
  x = x < -746 ? -746 : x;
  const double n = std::nearbyint(x * log2_e);
  const double r = x - n * ln2_high - n * ln2_low;
  double sum = 1.0 / 39916800;
  for (const double factorial : factorials) {
    sum = sum * r + 1 / factorial;
  }
  return std::ldexp(sum, static_cast<int>(n));
}

}  // namespace plainconv
