#include <doctest/doctest.h>

#include "doubles.hpp"
#include "head.hpp"
#include "refusals.hpp"

using plainconv::serve::body_length;
using plainconv::serve::chunk_size;
using plainconv::serve::head_of;
using plainconv::serve::Refused;

namespace {

std::string refusal_of(const std::string& text) {
  return thrown_by<Refused>([&] { (void)body_length(head_of(text + "\r\n\r\n"), 1000); });
}

}  // namespace

TEST_CASE("a head says what it says") {
  const std::string text =
      "POST /v2/x%20y HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nAUTHORIZATION:\tBearer a b \r\nExpect: "
      "100-Continue\r\nInference-Header-Content-Length: 5\r\nConnection: upgrade, Close\r\n\r\n";
  CHECK(plainconv::serve::head_size(text + "more") == text.size());
  CHECK_FALSE(plainconv::serve::head_size(text.substr(0, text.size() - 1)));
  const auto head = head_of(text);
  CHECK((head.method == "POST" && head.target == "/v2/x%20y" && head.authorization == "Bearer a b"));
  CHECK((body_length(head, 12) == 12 && head.json_length == "5"));
  CHECK((head.expects_continue && head.closes && !head.is_chunked));
  CHECK_FALSE(body_length(head_of("POST / HTTP/1.1\r\nTransfer-Encoding: CHUNKED\r\n\r\n"), 12));
  CHECK(head_of("GET / HTTP/1.0\r\n\r\n").closes);
  CHECK(body_length(head_of("GET / HTTP/1.1\r\n\r\n"), 12) == 0);
}

TEST_CASE("two tokens are none") {
  CHECK_FALSE(head_of("GET / HTTP/1.1\r\nauthorization: a\r\nauthorization: a\r\n\r\n").authorization);
}

TEST_CASE("what two readers could take for different things is refused") {
  const std::string post = "POST / HTTP/1.1\r\n";
  for (const char* line : {"GET /", "GET  HTTP/1.1", "GET / HTTP/2.0", "G(T / HTTP/1.1", "GET /\xc3\xa9 HTTP/1.1",
                           "GET / a HTTP/1.1", " / HTTP/1.1", "GET / HTTP/1.1 "}) {
    CHECK(contains(refusal_of(line), "does not begin as one of HTTP/1.1"));
  }
  for (const char* line : {"a", "a b: c", "a : b", ": b", " folded: b", "a: b\nc: d", "a: \x01"}) {
    CHECK(refusal_of(post + line) == "a header is not NAME: VALUE");
  }
  CHECK(contains(refusal_of(post + "content-length: 1\r\ncontent-length: 2"), "more than one content-length"));
  CHECK(contains(refusal_of(post + "content-length: 1\r\ntransfer-encoding: chunked"), "both a content-length"));
  CHECK(contains(refusal_of(post + "transfer-encoding: gzip, chunked"), "another transfer-encoding"));
  CHECK(contains(refusal_of(post + "transfer-encoding: chunked\r\ntransfer-encoding: chunked"), "another transfer"));
  CHECK(contains(refusal_of(post + "content-length: -1"), "content-length is '-1', wanted a whole number"));
  CHECK(contains(refusal_of(post + "content-length:"), "content-length is '', wanted a whole number"));
  CHECK(contains(refusal_of(post + "content-length: 1001"), "larger than the 1000 bytes"));
  CHECK(contains(refusal_of(post + "content-length: 99999999999999999999"), "larger than the 1000 bytes"));
  CHECK(contains(refusal_of(post + "content-encoding: GZIP"), "content-encoding 'gzip'; send it as it is"));
  CHECK(contains(refusal_of("GET /" + std::string(8000, 'x') + " HTTP/1.1"), "the path is longer than 8000 bytes"));
  std::string many = "GET / HTTP/1.1";
  for (int i = 0; i < 129; ++i) {
    many += "\r\na: b";
  }
  CHECK(refusal_of(many) == "there are more than 128 headers");
}

TEST_CASE("sizes of chunks") {
  CHECK(chunk_size("0") == 0);
  CHECK(chunk_size("fF ; name=value") == 255);
  for (const char* wrong : {"", "-1", "0x10", "zz", "1000000000000000", ";a", "1 2"}) {
    CHECK(contains(thrown_by<Refused>([&] { (void)chunk_size(wrong); }), "not in chunks"));
  }
}
