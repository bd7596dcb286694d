#include <doctest/doctest.h>

#include "coding.hpp"
#include "doubles.hpp"
#include "refusals.hpp"

using plainconv::serve::coding_of;
using plainconv::serve::compressed;
using plainconv::serve::decompressed;
using plainconv::serve::Refused;
using plainconv::serve::wanted_coding;

namespace {

std::string decoded(const std::string& bytes, std::string_view coding, std::size_t limit = 10'000'000) {
  const auto body = decompressed(std::as_bytes(std::span(bytes)), coding, limit, 7);
  return {reinterpret_cast<const char*>(body.bytes.data()), body.bytes.size()};  // NOLINT(*-reinterpret-cast)
}

}  // namespace

TEST_CASE("what was compressed is what it was") {
  std::string long_text;
  for (std::size_t i = 0; i < 100'000; ++i) {
    long_text += std::to_string(i * i);
  }
  for (const std::string_view coding : {"gzip", "deflate"}) {
    for (const std::string& text : {std::string(), std::string("abc"), long_text}) {
      const std::array<std::string_view, 2> pieces = {std::string_view(text).substr(0, text.size() / 3),
                                                      std::string_view(text).substr(text.size() / 3)};
      CHECK(decoded(compressed(pieces, coding), coding) == text);
    }
  }
}

TEST_CASE("what is not compressed as it says, or too much, is refused") {
  const std::array<std::string_view, 1> pieces = {"some text that is compressed"};
  const std::string gzip = compressed(pieces, "gzip");
  const auto said = [](const std::string& bytes, std::string_view coding, std::size_t limit = 1000) {
    return thrown_by<Refused>([&] { (void)decoded(bytes, coding, limit); });
  };
  CHECK(said("abc", "gzip") == "the body is not gzip (its bytes are wrong)");
  CHECK(said("", "gzip") == "the body is not gzip (it ends before its end)");
  CHECK(said(gzip.substr(0, gzip.size() - 1), "gzip") == "the body is not gzip (it ends before its end)");
  CHECK(said(gzip + "x", "gzip") == "the body is not gzip (it goes on behind its end)");
  CHECK(said(gzip, "deflate") == "the body is not deflate (its bytes are wrong)");
  const std::string zeros(1'000'000, '\0');
  const std::array<std::string_view, 1> many = {zeros};
  CHECK(said(compressed(many, "deflate"), "deflate") ==
        "the request's body is larger than the 1000 bytes that this server takes");
}

TEST_CASE("names of codings") {
  CHECK((coding_of("").empty() && coding_of("identity").empty() && coding_of("gzip") == "gzip"));
  CHECK(contains(thrown_by<Refused>([] { (void)coding_of("br"); }), "content-encoding 'br', wanted gzip, deflate"));
  for (const char* none : {"", "br", "gzip;q=0", "gzip; q = 0.000 , *", "identity"}) {
    CHECK(wanted_coding(none).empty());
  }
  CHECK((wanted_coding("br, gzip;q=0.5") == "gzip" && wanted_coding("gzip;q=0, deflate") == "deflate"));
}
