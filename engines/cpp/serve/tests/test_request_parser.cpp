#include <doctest/doctest.h>

#include "doubles.hpp"
#include "refusals.hpp"
#include "request_parser.hpp"

using plainconv::serve::Refused;
using plainconv::serve::RequestParser;

namespace {

constexpr std::size_t limit = 1000;

std::string refusal_of(const std::string& bytes) {
  return thrown_by<Refused>([&] { RequestParser(limit).read(bytes); });
}

/// A parser that was given these headers of a POST, after a host.
RequestParser read(const std::string& lines) {
  RequestParser parser(limit);
  parser.read("POST / HTTP/1.1\r\nhost: x\r\n" + lines + "\r\n");
  return parser;
}

const std::string chunked = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";

}  // namespace

TEST_CASE("a head says what it says, and what is behind it is left") {
  const std::string text =
      "\r\nPOST /v2/x%20y%2?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nAUTHORIZATION:\tBearer a b \r\nExpect: "
      "100-Continue\r\nInference-Header-Content-Length: 5\r\nConnection: upgrade, Close\r\nContent-Encoding: GZIP\r\n"
      "Accept-Encoding: br\r\naccept-encoding: Gzip\r\n\r\n";
  RequestParser parser(limit);
  CHECK(parser.read(text + "more") == text.size());
  const auto& head = parser.head();
  CHECK((head.method == "POST" && head.path == "/v2/x y%2" && head.authorization == "Bearer a b"));
  CHECK((head.length == 12 && head.json_length == "5" && head.content_encoding == "gzip"));
  CHECK((head.expects_continue && head.closes && head.accept_encoding == "br,gzip"));
  CHECK(read("").head().length == 0);
  CHECK_FALSE(read("").head().closes);
  CHECK_FALSE(read("transfer-encoding: CHUNKED\r\n").head().length);
  RequestParser old(limit);
  old.read("GET HTTP://a:80 HTTP/1.0\r\n\r\n");
  CHECK((old.head().closes && old.head().path == "/"));
}

TEST_CASE("a head that arrives byte by byte") {
  const std::string text = "GET /v2 HTTP/1.1\r\nhost: x\r\na: b\r\n\r\n";
  RequestParser parser(limit);
  std::string waiting;
  for (const char c : text) {
    CHECK_FALSE(parser.has_head());
    waiting += c;
    waiting.erase(0, parser.read(waiting));
  }
  CHECK((parser.has_head() && parser.head().path == "/v2" && waiting.empty()));
}

TEST_CASE("what two readers could take for different things is refused") {
  for (const std::string& line : std::vector<std::string>{"GET /", "GET  HTTP/1.1", "G(T / HTTP/1.1",
                                                          "GET /\x01 HTTP/1.1", " / HTTP/1.1", "\x16\x03"}) {
    CAPTURE(line);
    CHECK(contains(refusal_of(line + "\r\nhost: x\r\n\r\n"), "is not HTTP as this server reads it"));
  }
  for (const std::string& version : std::vector<std::string>{"1", "1.1 ", "11", "1.1x", "01.1", "x.y"}) {
    CHECK(contains(refusal_of("GET / HTTP/" + version + "\r\nhost: x\r\n\r\n"), "is not HTTP as this server reads it"));
  }
  for (const std::string& version : std::vector<std::string>{"2.0", "1.2", "0.9"}) {
    CHECK(contains(refusal_of("GET / HTTP/" + version + "\r\nhost: x\r\n\r\n"), "another version of HTTP"));
  }
  for (const std::string& target : std::vector<std::string>{"a", "*", "ftp://a/", "http://", "http:///a", "http://a b/",
                                                            "://a/", "/\xc3\xa9", "/?\x7f"}) {
    CHECK_FALSE(refusal_of("GET " + target + " HTTP/1.1\r\nhost: x\r\n\r\n").empty());
  }
  for (const std::string& line :
       std::vector<std::string>{"a", "a b: c", "a : b", ": b", " folded: b", "a: b\n c: d", "a: \x01", "a: b\rc: d"}) {
    CAPTURE(line);
    CHECK_FALSE(thrown_by<Refused>([&] { read(line + "\r\n"); }).empty());
  }
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"a: b\r\n c\r\n", "a header goes on in another line"},
      {"content-length: 1\r\ncontent-length: 1\r\n", "the header content-length is there twice"},
      {"content-length: 1, 1\r\n", "content-length is '1, 1', wanted a whole number without leading zeros"},
      {"content-length: 01\r\n", "content-length is '01', wanted a whole number without leading zeros"},
      {"transfer-encoding: gzip, chunked\r\n", "the body has another transfer-encoding than chunked"},
      {"transfer-encoding: chunked, chunked\r\n", "the body has another transfer-encoding than chunked"},
      {"authorization: a\r\nauthorization: a\r\n", "the header authorization is there twice"},
      {"content-encoding: gzip\r\ncontent-encoding: gzip\r\n", "the header content-encoding is there twice"},
      {"host: x\r\n", "the header host is there twice"},
  };
  for (const auto& [lines, why] : refused) {
    CHECK(thrown_by<Refused>([&] { read(lines); }) == why);
  }
  for (const std::string& lines : std::vector<std::string>{
           "content-length: 1\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 1\r\n",
           "content-length: -1\r\n", "content-length:\r\n", "content-length: 99999999999999999999\r\n",
           "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"}) {
    CAPTURE(lines);
    CHECK_FALSE(thrown_by<Refused>([&] { read(lines); }).empty());
  }
  CHECK(refusal_of("GET / HTTP/1.1\r\n\r\n") == "the request has no header host");
  CHECK(refusal_of("GET / HTTP/1.1\r\nhost: a b\r\n\r\n") == "the header host is no name of a host");
  CHECK(contains(refusal_of("GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"), "under HTTP/1.0"));
  CHECK(contains(refusal_of("GET /" + std::string(8000, 'x') + " HTTP/1.1\r\n\r\n"), "longer than 8000 bytes"));
  std::string many;
  for (int i = 0; i < 128; ++i) {
    many += "a: b\r\n";
  }
  CHECK(thrown_by<Refused>([&] { read(many); }) == "there are more than 128 headers");
  CHECK(contains(refusal_of("GET / HTTP/1.1\r\na: " + std::string(70000, 'x')), "the headers are longer than 65536"));
}

TEST_CASE("chunks without a body, byte by byte and without news") {
  for (const std::string& end : std::vector<std::string>{"0\r\n\r\n", "000\r\na: b\r\n\r\n"}) {
    RequestParser parser(limit);
    std::string waiting;
    for (const char c : chunked + end) {
      CHECK_FALSE(parser.has_chunks());
      waiting += c;
      waiting.erase(0, parser.read(waiting));
      waiting.erase(0, parser.read(waiting));
    }
    CHECK((parser.has_chunks() && parser.body().empty()));
  }
}

TEST_CASE("chunks, whole and byte by byte, and what is behind them") {
  const std::string body = "3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0;c\r\nhost: y\r\nhost: z\r\na: b\r\n\r\n";
  RequestParser whole(limit);
  CHECK(whole.read(chunked + body + "GET") == chunked.size() + body.size());
  CHECK((whole.has_chunks() && whole.body() == "abc0123456789"));
  RequestParser parser(limit);
  std::string waiting;
  for (const char c : chunked + body) {
    CHECK_FALSE(parser.has_chunks());
    waiting += c;
    waiting.erase(0, parser.read(waiting));
  }
  CHECK((parser.has_chunks() && parser.body() == "abc0123456789" && waiting.empty()));
}

TEST_CASE("chunks that are none, too many, too much, or mostly lines") {
  for (const std::string& wrong :
       std::vector<std::string>{"\r\n", "-1\r\n", "0x10\r\n", "zz\r\n", ";a\r\n", "1 2\r\n", "1\r\nab\r\n",
                                "1;\x01\r\na", "0\r\na b: c\r\n\r\n", "0\r\n : c\r\n\r\n", "0\r\na: b\r\n c\r\n\r\n",
                                "0\r\ncontent-length: 1\r\n\r\n", "0\r\ntransfer-encoding: chunked\r\n\r\n"}) {
    CAPTURE(wrong);
    CHECK_FALSE(refusal_of(chunked + wrong + "0\r\n\r\n").empty());
  }
  CHECK(contains(refusal_of(chunked + "3e9\r\n"), "larger than the 1000 bytes"));
  CHECK_FALSE(refusal_of(chunked + "fffffffffffffffff\r\n").empty());
  const std::string outweigh = "the chunks' lines and trailers are longer than what they carry";
  CHECK(refusal_of(chunked + "1;" + std::string(5000, 'e')) == outweigh);
  CHECK(refusal_of(chunked + "1;" + std::string(5000, 'e') + "\r\na\r\n") == outweigh);
  CHECK(refusal_of(chunked + "0\r\na: " + std::string(5000, 'b')) == outweigh);
  std::string ones;
  for (int i = 0; i < 1100; ++i) {
    ones += "1\r\n \r\n";
  }
  CHECK_FALSE(thrown_by<Refused>([&] { RequestParser(10000).read(chunked + ones); }).empty());
}
