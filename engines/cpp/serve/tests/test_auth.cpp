#include <doctest/doctest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "auth.hpp"
#include "doubles.hpp"
#include "refusals.hpp"

using plainconv::serve::Bearer;
using plainconv::serve::Refused;

TEST_CASE("only the token itself is let in") {
  const Bearer bearer("0123456789abcdef%41");
  const auto refused = [&](std::optional<std::string_view> given) {
    return contains(thrown_by<Refused>([&] { bearer.check(given); }), "the bearer token is missing or wrong");
  };
  CHECK_FALSE(refused("Bearer 0123456789abcdef%41"));
  CHECK_FALSE(refused("bEARER   0123456789abcdef%41 "));
  CHECK(refused(std::nullopt));
  CHECK(refused(""));
  CHECK(refused("Bearer"));
  CHECK(refused("Bearer 0123456789abcdefA"));
  CHECK(refused("Bearer 0123456789abcdef%4"));
  CHECK(refused("Basic 0123456789abcdef%41"));
  CHECK(refused("0123456789abcdef%41"));
}

TEST_CASE("no token lets everyone in") {
  CHECK(thrown_by<Refused>([] { Bearer("").check(std::nullopt); }).empty());
}

TEST_CASE("a token is one line of a file") {
  const auto path = (std::filesystem::temp_directory_path() / "plainconv-serve-token").string();
  const auto read = [&](const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
    return plainconv::serve::token_of_file(path);
  };
  CHECK(read("0123456789abcdef\r\n") == "0123456789abcdef");
  for (const char* wrong :
       {"", "short", "0123456789abcdef 2", "0123456789abcdef\n0123456789abcdef", "0123456789abcd\xc3\xa9"}) {
    CHECK(contains(thrown_by<plainconv::Error>([&] { (void)read(wrong); }), "holds no token; wanted 16 to 4096"));
  }
  CHECK(contains(thrown_by<plainconv::Error>([&] { (void)read(std::string(5000, 'x')); }), "holds no token"));
  std::filesystem::remove(path);
  CHECK(contains(thrown_by<plainconv::Error>([&] { (void)plainconv::serve::token_of_file(path); }),
                 "the token cannot be read"));
}
