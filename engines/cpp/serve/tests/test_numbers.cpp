#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "doubles.hpp"
#include "halves.hpp"
#include "numbers.hpp"
#include "refusals.hpp"

using plainconv::bfloat_of;
using plainconv::DType;
using plainconv::float_of_bfloat;
using plainconv::float_of_half;
using plainconv::half_of;
using plainconv::serve::Datatype;
using plainconv::serve::datatypes;
using plainconv::serve::json_of;
using plainconv::serve::Numbers;
using plainconv::serve::Refused;

namespace {

const Datatype& named(std::string_view name) { return *std::ranges::find(datatypes, name, &Datatype::name); }

template <class... Values>
Numbers list_of(Values... values) {
  Numbers numbers;
  numbers.start_list();
  (numbers.add(values), ...);
  numbers.end_list();
  return numbers;
}

template <class T>
std::vector<T> values_of(const std::vector<std::byte>& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::string refusal_of(const Numbers& numbers, std::string_view datatype) {
  return thrown_by<Refused>([&] { (void)numbers.bytes("x", named(datatype)); });
}

constexpr std::int64_t one = 1;

}  // namespace

TEST_CASE("halves are rounded to the nearest, ties to even") {
  for (unsigned bits = 0; bits < 0x7C00; ++bits) {  // every finite one, and what lies between it and the next
    const double value = float_of_half(static_cast<std::uint16_t>(bits));
    const double next = bits + 1 == 0x7C00 ? 65536 : float_of_half(static_cast<std::uint16_t>(bits + 1));
    REQUIRE(half_of(value) == bits);
    REQUIRE(half_of(-value) == (bits | 0x8000U));
    REQUIRE(half_of((value + next) / 2) == (bits % 2 == 0 ? bits : bits + 1));
    REQUIRE(half_of(std::nextafter((value + next) / 2, value)) == bits);
    REQUIRE(half_of(std::nextafter((value + next) / 2, next)) == bits + 1);
  }
  CHECK(half_of(1e9) == 0x7C00);
  CHECK(std::isnan(float_of_half(half_of(std::numeric_limits<double>::quiet_NaN()))));
}

TEST_CASE("bfloats are rounded to the nearest, ties to even") {
  CHECK(bfloat_of(1.0) == 0x3F80);
  CHECK(bfloat_of(1.00390625) == 0x3F80);  // halfway to the next
  CHECK(bfloat_of(1.01171875) == 0x3F82);
  CHECK(bfloat_of(3.4e38) == 0x7F80);
  CHECK(float_of_bfloat(0xC000) == -2.0F);
  CHECK(std::isnan(float_of_bfloat(bfloat_of(std::numeric_limits<double>::quiet_NaN()))));
}

TEST_CASE("numbers of JSON in each datatype") {
  CHECK(values_of<float>(list_of(one, 0.5, std::int64_t{16777217}).bytes("x", named("FP32"))) ==
        std::vector<float>{1, 0.5, 16777216});
  CHECK(values_of<std::int64_t>(list_of(INT64_MIN, INT64_MAX).bytes("x", named("INT64"))) ==
        std::vector<std::int64_t>{INT64_MIN, INT64_MAX});
  CHECK(values_of<std::int8_t>(list_of(std::int64_t{-128}, std::int64_t{127}).bytes("x", named("INT8"))) ==
        std::vector<std::int8_t>{-128, 127});
  CHECK(values_of<std::uint8_t>(list_of(true, false).bytes("x", named("BOOL"))) == std::vector<std::uint8_t>{1, 0});
  CHECK(values_of<double>(list_of(0.1).bytes("x", named("FP64"))) == std::vector<double>{0.1});
  CHECK(refusal_of(list_of(std::int64_t{128}), "INT8") == "input 'x' has a number beyond INT8 in its data");
  CHECK(refusal_of(list_of(std::int64_t{-1}), "UINT8") == "input 'x' has a number beyond UINT8 in its data");
  CHECK(contains(refusal_of(list_of(std::uint64_t{1} << 63U), "INT64"), "beyond INT64"));
  CHECK(contains(refusal_of(list_of(1e39), "FP32"), "beyond FP32"));
  CHECK(contains(refusal_of(list_of(70000.0), "FP16"), "beyond FP16"));
  CHECK(contains(refusal_of(list_of(1.0), "INT32"), "other data than whole numbers, as its datatype INT32 wants"));
  CHECK(contains(refusal_of(list_of(one, true), "FP32"), "other data than numbers"));
  CHECK(contains(refusal_of(list_of(one), "BOOL"), "other data than true and false"));
}

TEST_CASE("lists in lists have a shape, or have none") {
  Numbers square;
  square.start_list();
  for (int row = 0; row < 2; ++row) {
    square.start_list();
    square.add(one);
    square.add(2.5);
    square.end_list();
  }
  square.end_list();
  CHECK(square.is_regular());
  CHECK(std::ranges::equal(square.shape(), std::array<std::int64_t, 2>{2, 2}));
  const auto ragged = [](auto act) {
    Numbers numbers;
    numbers.start_list();
    act(numbers);
    numbers.end_list();
    return !numbers.is_regular();
  };
  CHECK(ragged([](Numbers& n) { n.add(one), n.start_list(), n.end_list(); }));
  CHECK(ragged([](Numbers& n) { n.start_list(), n.end_list(), n.add(one); }));
  CHECK(ragged([](Numbers& n) { n.start_list(), n.add(one), n.end_list(), n.start_list(), n.end_list(); }));
  CHECK_FALSE(ragged([](Numbers& n) { n.start_list(), n.end_list(), n.start_list(), n.end_list(); }));
  Numbers deep;
  for (int i = 0; i < 40; ++i) {
    deep.start_list();
  }
  for (int i = 0; i < 40; ++i) {
    deep.end_list();
  }
  CHECK_FALSE(deep.is_regular());
}

TEST_CASE("numbers to JSON: NaN and infinity are null") {
  const std::array<float, 5> values{1, 0.1F, -0.0F, std::numeric_limits<float>::quiet_NaN(), 1e20F};
  CHECK(json_of(DType::float32, std::as_bytes(std::span(values))) == "[1.0,0.1,-0.0,null,1e+20]");
  const std::array<std::int64_t, 2> whole{INT64_MIN, 7};
  CHECK(json_of(DType::int64, std::as_bytes(std::span(whole))) == "[-9223372036854775808,7]");
  const std::array<std::uint8_t, 2> bytes{0, 255};
  CHECK(json_of(DType::uint8, std::as_bytes(std::span(bytes))) == "[0,255]");
  CHECK(json_of(DType::bool_, std::as_bytes(std::span(bytes))) == "[false,true]");
  CHECK(json_of(DType::int8, std::as_bytes(std::span(bytes))) == "[0,-1]");
  const std::array<std::uint16_t, 2> halves{0x3C00, 0x7C00};
  CHECK(json_of(DType::float16, std::as_bytes(std::span(halves))) == "[1.0,null]");
  CHECK(json_of(DType::float64, {}) == "[]");
}
