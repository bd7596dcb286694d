#include "request_parser.hpp"

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <charconv>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

namespace http = boost::beast::http;
using http::field;

constexpr std::string_view line_end = "\r\n";
constexpr std::size_t least_end = 5;  // "0\r\n\r\n" ends chunks
constexpr std::string_view json_length_name = "inference-header-content-length";
constexpr int http_1_0 = 10;
constexpr std::array<std::string_view, 8> once = {
    "authorization", "content-encoding", "content-length",    "content-type", "expect",
    "host",          json_length_name,   "transfer-encoding",
};

std::string_view view_of(boost::beast::string_view value) noexcept { return {value.data(), value.size()}; }

bool is_length(std::string_view value) noexcept {
  return value == "0" || (!value.empty() && value.front() != '0' &&
                          std::ranges::all_of(value, [](char c) { return c >= '0' && c <= '9'; }));
}

bool is_host(std::string_view value) noexcept {
  return std::ranges::all_of(value, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("._~!$&'()*+,;=%:[]-").find(c) != std::string_view::npos;
  });
}

/// The path of a target, "" where it is none: "/a?b" and "http://host/a?b" have the path "/a".
std::string_view path_of(std::string_view target) {
  if (!target.starts_with('/')) {
    const auto scheme = target.find("://");
    const std::string name = lower(target.substr(0, scheme == std::string_view::npos ? 0 : scheme));
    if (name != "http" && name != "https") {
      return "";
    }
    target.remove_prefix(scheme + 3);
    const auto end = std::min(target.find_first_of("/?#"), target.size());
    if (end == 0 || !is_host(target.substr(0, end))) {
      return "";
    }
    target.remove_prefix(end);
    if (!target.starts_with('/')) {
      return "/";
    }
  }
  return target.substr(0, target.find('?'));
}

/// With the bytes that %41 and the like stand for, but for the slash: in a name it is none that divides a path.
std::string unescaped(std::string_view path) {
  constexpr int base = 16;
  constexpr std::size_t digits = 2;
  std::string all;
  for (std::size_t i = 0; i < path.size(); ++i) {
    unsigned byte = 0;
    const std::string_view number = path[i] == '%' ? path.substr(i + 1, digits) : "";
    const bool is_escape =
        number.size() == digits &&
        std::from_chars(number.data(), number.data() + digits, byte, base).ptr == number.data() + digits && byte != '/';
    all += is_escape ? static_cast<char>(byte) : path[i];
    i += is_escape ? digits : 0;
  }
  return all;
}

Refused outweighed() { return bad_request("the chunks' lines and trailers are longer than what they carry"); }

/// Whether a line ends as that of a request in another version.
bool has_other_version(std::string_view line) {
  constexpr std::string_view shape = " HTTP/0.0";
  const auto end = line.substr(line.size() - std::min(line.size(), shape.size()));
  const auto fits = [](char c, char wanted) { return wanted == '0' ? c >= '0' && c <= '9' : c == wanted; };
  return std::ranges::equal(end, shape, fits) && end != " HTTP/1.0" && end != " HTTP/1.1";
}

/// Whether a header goes on in another line.
bool is_folded(std::string_view lines) {
  return lines.find("\r\n ") != std::string_view::npos || lines.find("\r\n\t") != std::string_view::npos;
}

/// That of what begins with `bytes`.
Refused refusal_of(const boost::beast::error_code& code, std::string_view bytes, bool in_body) {
  if (in_body) {
    return bad_request("the body is not in chunks as transfer-encoding says");
  }
  if (code == http::error::header_limit) {
    return bad_request(text("the headers are longer than ", most_head, " bytes"));
  }
  if (code == http::error::bad_version && has_other_version(bytes.substr(0, bytes.find(line_end)))) {
    return {505, "OTHER", "the request is of another version of HTTP, wanted 1.1"};
  }
  return bad_request("the request is not HTTP as this server reads it");
}

}  // namespace

RequestParser::RequestParser(std::size_t limit) : limit_(limit) {
  header_limit(most_head);
  body_limit(boost::none);
}

std::size_t RequestParser::read(std::string_view bytes) {
  std::size_t taken = 0;
  while (!has_head() && read_ == 0 && bytes.substr(taken).starts_with(line_end)) {
    taken += line_end.size();  // an empty line before a request is passed over
  }
  if (!has_head() && read_ == 0 && bytes.substr(taken) == "\r") {
    return taken;
  }
  while (taken < bytes.size() && !has_chunks() && !(has_head() && head_.length)) {
    const auto rest = bytes.substr(taken);
    const bool was_head = !has_head();
    const bool is_line = !was_head && left_ == 0;
    if (is_line && rest.size() < least_end) {
      break;  // Beast may not be given less of it
    }
    Code code;
    const std::size_t count = put(boost::asio::const_buffer(rest.data(), rest.size()), code);
    if (code && code != http::error::need_more) {
      throw refusal_of(code, rest, !was_head);
    }
    taken += count;
    read_ += count;
    if ((was_head || has_chunks()) && is_folded(rest.substr(0, count))) {
      throw bad_request("a header goes on in another line");
    }
    if (was_head) {
      if (read_ > most_head) {
        throw refusal_of(http::error::header_limit, rest, false);
      }
      read_ = has_head() ? 0 : read_;
    } else if (read_ > most_framing + 2 * body_.size()) {
      throw outweighed();
    }
    if (code == http::error::need_more) {
      if (is_line && rest.size() > most_framing) {
        throw outweighed();
      }
      break;
    }
  }
  return taken;
}

void RequestParser::on_request_impl(http::verb /*method*/, Text method, Text target, int version, Code& /*code*/) {
  const bool is_ascii = std::ranges::all_of(target, [](unsigned char c) { return c < 0x7f; });
  const auto path = is_ascii ? path_of(view_of(target)) : "";
  if (target.size() > most_request_line) {
    throw Refused(414, "OTHER", text("the path is longer than ", most_request_line, " bytes"));
  }
  if (path.empty()) {
    throw bad_request("the request's target is no path");
  }
  head_.method = view_of(method);
  head_.path = unescaped(path);
  version_ = version;
}

void RequestParser::on_field_impl(Field field, Text name, Text given, Code& /*code*/) {
  if (++headers_ > most_headers) {
    throw bad_request(text("there are more than ", most_headers, " headers"));
  }
  if (is_trailing_) {
    return;
  }
  const std::string key = lower(view_of(name));
  const std::string_view value = view_of(given);
  const auto index = static_cast<std::size_t>(std::ranges::find(once, key) - once.begin());
  if (index < once.size()) {
    if (seen_.test(index)) {
      throw bad_request(text("the header ", key, " is there twice"));
    }
    seen_.set(index);
  }
  if (field == field::content_length && !is_length(value)) {
    throw bad_request(text("content-length is ", as_sent(value), ", wanted a whole number without leading zeros"));
  }
  if (field == field::transfer_encoding && lower(value) != "chunked") {
    throw bad_request("the body has another transfer-encoding than chunked");
  }
  if (field == field::host && !is_host(value)) {
    throw bad_request("the header host is no name of a host");
  }
  if (field == field::authorization) {
    head_.authorization = value;
  } else if (field == field::content_type) {
    head_.content_type = lower(value);
  } else if (field == field::content_encoding) {
    head_.content_encoding = lower(value);
  } else if (field == field::accept_encoding) {
    head_.accept_encoding += text(head_.accept_encoding.empty() ? "" : ",", lower(value));
  } else if (field == field::expect) {
    head_.expects_continue = version_ != http_1_0 && lower(value) == "100-continue";
  } else if (key == json_length_name) {
    head_.json_length = value;
  } else if (key == "traceparent") {
    head_.traceparent = value;
  } else if (key == "tracestate") {
    head_.tracestate = value;
  }
}

void RequestParser::on_header_impl(Code& /*code*/) {
  constexpr std::size_t host = 5;
  if (version_ == http_1_0 && chunked()) {
    throw bad_request("transfer-encoding under HTTP/1.0: where the request ends is not certain");
  }
  if (version_ != http_1_0 && !seen_.test(host)) {
    throw bad_request("the request has no header host");
  }
  static_assert(once[host] == "host");
  if (!chunked()) {
    const auto length = content_length();
    head_.length = length ? *length : 0;
  }
  head_.closes = version_ == http_1_0 || !keep_alive();
}

void RequestParser::on_chunk_header_impl(std::uint64_t size, Text /*extensions*/, Code& /*code*/) {
  is_trailing_ = size == 0;
  if (is_trailing_) {
    return;
  }
  if (size > limit_ - body_.size()) {
    throw too_large(text("the request's body is larger than the ", limit_, " bytes that this server takes"));
  }
  if (++chunks_ > free_chunks + body_.size() / least_chunk) {
    throw bad_request(text("the chunks carry less than ", least_chunk, " bytes each; send larger ones"));
  }
  left_ = size;
}

std::size_t RequestParser::on_chunk_body_impl(std::uint64_t /*left*/, Text body, Code& /*code*/) {
  body_.append(body.data(), body.size());
  left_ -= body.size();
  return body.size();
}

}  // namespace plainconv::serve
