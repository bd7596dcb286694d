// Products of sizes, within 64 bits and beyond.
#include <doctest/doctest.h>

#include <array>
#include <limits>

#include "product.hpp"

using plainconv::serve::product;
using plainconv::serve::product_in_words;

TEST_CASE("a product within 64 bits is a number, one beyond is none, and both are right in words") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  CHECK(product(std::array<std::int64_t, 3>{2, 3, 4}, 8) == 192U);
  CHECK(product({}, 4) == 4U);
  CHECK(product(std::array<std::int64_t, 1>{most}, 2) == 18446744073709551614U);
  CHECK_FALSE(product(std::array<std::int64_t, 1>{std::int64_t{1} << 61U}, 8));
  CHECK(product(std::array<std::int64_t, 3>{most, most, 0}, 8) == 0U);
  CHECK(product_in_words(std::array<std::int64_t, 2>{5, 7}, 1) == "35");
  CHECK(product_in_words(std::array<std::int64_t, 1>{std::int64_t{1} << 61U}, 8) == "18446744073709551616");
  CHECK(product_in_words(std::array<std::int64_t, 2>{most, most}, 8) == "680564733841876926779175262273860009992");
  CHECK(product_in_words(std::array<std::int64_t, 2>{1'000'000'000'000, 1'000'000'000'000}, 1) ==
        "1000000000000000000000000");
}
