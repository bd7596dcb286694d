// The head of an HTTP/1 request, read strictly: what two readers could take for different things is refused.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace plainconv::serve {

inline constexpr std::size_t most_head = 64 * 1024UL;
inline constexpr std::size_t most_headers = 128;
inline constexpr std::size_t most_request_line = 8000;

/// What a head says; views into its text.
struct Head {
  std::string_view request_line;  // METHOD TARGET HTTP/1.N
  std::string_view method;
  std::string_view target;
  std::optional<std::string_view> authorization;     // of one header; several are none
  std::optional<std::string_view> content_encoding;  // but "identity"
  std::optional<std::string_view> content_length;
  std::optional<std::string_view> json_length;
  bool is_chunked = false;
  bool expects_continue = false;
  bool closes = false;  // the connection, after the answer
};

/// The size of the head that `bytes` begin with, its empty line included; nothing where it has no end yet.
[[nodiscard]] std::optional<std::size_t> head_size(std::string_view bytes) noexcept;

/// A head that ends with an empty line. Throws Refused.
[[nodiscard]] Head head_of(std::string_view text);

/// The length of the body that a head announces; nothing where it comes in chunks. Throws Refused beyond `limit`.
[[nodiscard]] std::optional<std::size_t> body_length(const Head& head, std::size_t limit);

/// The size of a chunk, of the line before it. Throws Refused.
[[nodiscard]] std::size_t chunk_size(std::string_view line);

}  // namespace plainconv::serve
