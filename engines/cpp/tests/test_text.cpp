#include <doctest/doctest.h>

#include "text.hpp"

TEST_CASE("text looks as in Python's messages") {
  CHECK(plainconv::repr("a'b\n\x01\\") == R"("a'b\n\x01\\")");
  CHECK(plainconv::repr("a'\"") == R"('a\'"')");
  CHECK(plainconv::repr("é\xc2\x9b\xe2\x80\xae\xf3\xa0\x80\xa0…") == R"('é\x9b\u202e\U000e0020…')");
  CHECK(plainconv::repr("\xff\xe2\x80") == R"('\xff\xe2\x80')");
  CHECK(plainconv::lower("AÉ\xff") == "aé\xff");
  CHECK(plainconv::decimal(0.1) == "0.1");
  CHECK(plainconv::decimal(3) == "3.0");
  CHECK(plainconv::decimal(1e-7) == "1e-07");
  CHECK(plainconv::decimal(1e16) == "1e+16");
  CHECK(plainconv::decimal(-0.0) == "-0.0");
  CHECK(plainconv::cut("aé…b", 3) == "aé…");
  CHECK(plainconv::one_line(" a\n  b. ") == "a b");
  CHECK(plainconv::printable("a\x1b[31m\n") == "a [31m ");
  CHECK(plainconv::printable("é\xff\xe2\x80\xae…") == "é? …");
}
