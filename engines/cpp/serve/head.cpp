#include "head.hpp"

#include <algorithm>
#include <charconv>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::string_view line_end = "\r\n";
constexpr std::size_t most_digits = 18;

bool is_token_char(char c) noexcept {
  constexpr std::string_view others = "!#$%&'*+-.^_`|~";
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         others.find(c) != std::string_view::npos;
}

bool is_token(std::string_view value) noexcept { return !value.empty() && std::ranges::all_of(value, is_token_char); }

std::string_view trimmed(std::string_view value) noexcept {
  const auto first = value.find_first_not_of(" \t");
  return first == std::string_view::npos ? "" : value.substr(first, value.find_last_not_of(" \t") + 1 - first);
}

bool names(std::string_view list, std::string_view word) {
  while (true) {
    const auto comma = list.find(',');
    if (lower(trimmed(list.substr(0, comma))) == word) {
      return true;
    }
    if (comma == std::string_view::npos) {
      return false;
    }
    list.remove_prefix(comma + 1);
  }
}

std::string_view taken_line(std::string_view& rest) {
  const auto end = rest.find(line_end);
  const auto line = rest.substr(0, end);
  rest.remove_prefix(end + line_end.size());
  return line;
}

void read_request_line(Head& head, std::string_view line) {
  if (line.size() > most_request_line) {
    throw Refused(414, "OTHER", text("the path is longer than ", most_request_line, " bytes"));
  }
  const auto first = line.find(' ');
  const auto last = line.rfind(' ');
  const std::string_view version = last == std::string_view::npos ? "" : line.substr(last + 1);
  const bool has_three = first != std::string_view::npos && first + 1 < last;
  const auto is_visible = [](char c) { return c > ' ' && c < '\x7f'; };
  if (!has_three || !is_token(line.substr(0, first)) || (version != "HTTP/1.1" && version != "HTTP/1.0") ||
      !std::ranges::all_of(line.substr(first + 1, last - first - 1), is_visible)) {
    throw bad_request("the request does not begin as one of HTTP/1.1 does");
  }
  head.request_line = line;
  head.method = line.substr(0, first);
  head.target = line.substr(first + 1, last - first - 1);
  head.closes = version == "HTTP/1.0";
}

bool is_number(std::string_view value) noexcept {
  return !value.empty() && std::ranges::all_of(value, [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::optional<std::size_t> head_size(std::string_view bytes) noexcept {
  const auto end = bytes.find("\r\n\r\n");
  return end == std::string_view::npos ? std::nullopt : std::optional(end + 4);
}

Head head_of(std::string_view text) {
  Head head;
  read_request_line(head, taken_line(text));
  std::size_t count = 0;
  std::size_t authorizations = 0;
  std::size_t encodings = 0;
  for (auto line = taken_line(text); !line.empty(); line = taken_line(text)) {
    const auto colon = line.find(':');
    const auto is_sound = [](char c) { return c == '\t' || (static_cast<unsigned char>(c) >= ' ' && c != '\x7f'); };
    if (++count > most_headers) {
      throw bad_request(plainconv::text("there are more than ", most_headers, " headers"));
    }
    if (colon == std::string_view::npos || !is_token(line.substr(0, colon)) || !std::ranges::all_of(line, is_sound)) {
      throw bad_request("a header is not NAME: VALUE");
    }
    const std::string name = lower(line.substr(0, colon));
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (name == "content-length") {
      if (head.content_length && *head.content_length != value) {
        throw bad_request("there is more than one content-length");
      }
      head.content_length = value;
    } else if (name == "transfer-encoding") {
      if (lower(value) != "chunked" || ++encodings > 1) {
        throw bad_request("the body has another transfer-encoding than chunked");
      }
      head.is_chunked = true;
    } else if (name == "content-encoding") {
      if (lower(value) != "identity") {
        head.content_encoding = value;
      }
    } else if (name == "authorization") {
      head.authorization = ++authorizations == 1 ? std::optional(value) : std::nullopt;
    } else if (name == "inference-header-content-length") {
      head.json_length = value;
    } else if (name == "expect") {
      head.expects_continue = lower(value) == "100-continue";
    } else if (name == "connection" && names(value, "close")) {
      head.closes = true;
    }
  }
  if (head.is_chunked && head.content_length) {
    throw bad_request("the body has both a content-length and a transfer-encoding");
  }
  return head;
}

std::optional<std::size_t> body_length(const Head& head, std::size_t limit) {
  if (head.content_encoding) {
    throw bad_request(
        text("the body has content-encoding ", as_sent(lower(*head.content_encoding)), "; send it as it is"));
  }
  if (head.is_chunked) {
    return std::nullopt;
  }
  const std::string_view value = head.content_length.value_or("0");
  if (!is_number(value)) {
    throw bad_request(text("content-length is ", as_sent(value), ", wanted a whole number"));
  }
  std::size_t length = 0;
  std::from_chars(value.data(), value.data() + value.size(), length);
  if (value.size() > most_digits || length > limit) {
    throw too_large(text("the request's body is larger than the ", limit, " bytes that this server takes"));
  }
  return length;
}

std::size_t chunk_size(std::string_view line) {
  constexpr std::size_t most_hexadecimals = 15;
  constexpr int base = 16;
  const std::string_view digits = trimmed(line.substr(0, line.find(';')));
  std::size_t size = 0;
  const char* end = digits.data() + digits.size();
  if (digits.empty() || digits.size() > most_hexadecimals ||
      std::from_chars(digits.data(), end, size, base).ptr != end) {
    throw bad_request("the body is not in chunks as transfer-encoding says");
  }
  return size;
}

}  // namespace plainconv::serve
