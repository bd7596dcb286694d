// A request of HTTP/1 as Beast parses it, bounded, and with no latitude where two readers could differ.
//
// Refused beside what Beast refuses: versions but 1.0 and 1.1, folded headers, chunks under 1.0, codings but chunked,
// what may stand once and is there twice, a length that is not written as numbers are, a target that is no path, chunks
// whose lines and trailers outweigh what they carry. An absolute target is read as its path.
#pragma once

#include <bitset>
#include <boost/beast/http/basic_parser.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace plainconv::serve {

inline constexpr std::size_t most_head = 64 * 1024UL;
inline constexpr std::size_t most_headers = 128;
inline constexpr std::size_t most_request_line = 8000;
inline constexpr std::size_t most_framing =
    4 * 1024UL;  // of a chunk line, of trailers, and of all beyond what the chunks carry
inline constexpr std::size_t free_chunks = 1024;  // so many may be as small as they like;
inline constexpr std::size_t least_chunk = 64;    // then their mean is at least that

/// What a head says. Codings and the type are in small letters.
struct Head {
  std::string method;
  std::string path;  // unescaped, without its query
  std::optional<std::string> authorization;
  std::optional<std::string> json_length;
  std::string content_type;
  std::string content_encoding;
  std::string accept_encoding;
  std::string traceparent;
  std::string tracestate;
  std::optional<std::uint64_t> length;  // of the body; nothing where it comes in chunks
  bool expects_continue = false;
  bool closes = false;  // the connection, after the answer
};

/// One request: its head and, where it comes in chunks, its body.
class RequestParser : private boost::beast::http::basic_parser<true> {
 public:
  /// A body in chunks may have so many bytes.
  explicit RequestParser(std::size_t limit);

  /// Reads as much of `bytes` as can be, up to the end of the head, or of the chunks: how much. The rest is to be given
  /// again, with more behind it. Throws Refused.
  std::size_t read(std::string_view bytes);

  /// Whether something of a request was read.
  [[nodiscard]] bool has_begun() const noexcept { return read_ != 0; }
  [[nodiscard]] bool has_head() const { return is_header_done(); }
  [[nodiscard]] const Head& head() const noexcept { return head_; }
  /// Whether the chunks have ended.
  [[nodiscard]] bool has_chunks() const { return is_trailing_ && is_done(); }
  /// What the chunks carried.
  [[nodiscard]] const std::string& body() const noexcept { return body_; }

 private:
  using Text = boost::beast::string_view;
  using Code = boost::beast::error_code;
  using Field = boost::beast::http::field;

  void on_request_impl(boost::beast::http::verb, Text method, Text target, int version, Code&) override;
  void on_response_impl(int, Text, int, Code&) override {}
  void on_field_impl(Field field, Text name, Text value, Code&) override;
  void on_header_impl(Code&) override;
  void on_body_init_impl(boost::optional<std::uint64_t> const&, Code&) override {}
  std::size_t on_body_impl(Text body, Code&) override { return body.size(); }
  void on_chunk_header_impl(std::uint64_t size, Text, Code& code) override;
  std::size_t on_chunk_body_impl(std::uint64_t, Text body, Code&) override;
  void on_finish_impl(Code&) override {}

  Head head_;
  std::string body_;
  std::size_t limit_;
  std::size_t read_ = 0;  // of the head, then of the chunks with their lines
  std::size_t headers_ = 0;
  std::size_t chunks_ = 0;
  std::uint64_t left_ = 0;  // of the chunk that is being read
  std::bitset<16> seen_;    // of the headers that may stand once
  int version_ = 0;
  bool is_trailing_ = false;  // behind the last chunk
};

}  // namespace plainconv::serve
