#include <doctest/doctest.h>

#include "bundle/json.hpp"
#include "doubles.hpp"

using plainconv::json::parse;

TEST_CASE("JSON is shown as Python would") {
  CHECK(plainconv::json::shown(parse(R"({"b":[1,-2,1.5,true,null,"x"],"a":{}})"), 99) ==
        "{'b': [1, -2, 1.5, True, None, 'x'], 'a': {}}");
}

TEST_CASE("what is no JSON is refused") {
  const auto refused = [](const std::string& text) {
    return thrown_by<plainconv::json::SyntaxError>([&] { (void)parse(text); });
  };
  for (const std::string text :
       {"", "{", "[1,]", "NaN", "-Infinity", "1e999", "\"\\ud800\"", "\"\x01\"", "\"\xff\"", "1 2", "01"}) {
    CAPTURE(text);
    CHECK(!refused(text).empty());
  }
  CHECK(refused("\xef\xbb\xbf{}") == "it begins with a byte order mark");
  CHECK(refused(std::string("{}\0x", 4)) == "wrong at byte 3");
  CHECK(refused(R"({"a":1,"a":2})") == "a key appears twice in one object");
  CHECK(refused(R"([{"a":1},{"a":2}])").empty());
  CHECK(contains(refused(std::string(100000, '[')), "nested more than 500 levels deep"));
  CHECK(refused(std::string(500, '[') + std::string(500, ']')).empty());
}

TEST_CASE("integers beyond 64 bits are no integers") {
  using plainconv::json::BigInteger;
  CHECK(std::get<std::int64_t>(parse("9223372036854775807")) == INT64_MAX);
  CHECK(std::get<BigInteger>(parse("9223372036854775808")).digits == "9223372036854775808");
  CHECK(std::get<BigInteger>(parse("99999999999999999999999")).digits == "99999999999999999999999");
  CHECK(std::get<double>(parse("1e2")) == 100.0);
}
