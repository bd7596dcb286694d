#include "coding.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <new>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::array<std::string_view, 2> codings = {"gzip", "deflate"};
constexpr std::size_t piece = 256 * 1024UL;
constexpr int level = 1;  // tensors hardly get smaller by a higher one

int window_of(std::string_view coding) noexcept { return coding == "gzip" ? 16 + MAX_WBITS : MAX_WBITS; }

std::string_view known(std::string_view coding) noexcept {
  const auto found = std::ranges::find(codings, coding);
  return found == codings.end() ? std::string_view() : *found;
}

std::string_view trimmed(std::string_view value) noexcept {
  const auto first = value.find_first_not_of(" \t");
  return first == std::string_view::npos ? "" : value.substr(first, value.find_last_not_of(" \t") + 1 - first);
}

/// Whether "q=0.5" and the like is zero.
bool is_refused(std::string_view weight) noexcept {
  const auto equals = weight.find('=');
  return equals != std::string_view::npos && trimmed(weight.substr(0, equals)) == "q" &&
         trimmed(weight.substr(equals + 1)).find_first_not_of("0.") == std::string_view::npos;
}

/// A stream of zlib, ended by `End`.
template <int (*End)(z_stream*)>
struct Stream : z_stream {
  Stream() : z_stream() {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  Stream(Stream&&) = delete;
  Stream& operator=(Stream&&) = delete;
  ~Stream() { End(this); }
};

auto* bytes_of(const void* data) noexcept { return static_cast<Bytef*>(const_cast<void*>(data)); }  // NOLINT

/// A piece more of what `work`, inflate or deflate, makes of the `left` bytes that the stream has still to read.
template <class Work>
int go_on(z_stream& stream, std::size_t& left, std::string& all, const Work& work) {
  const std::size_t size = all.size();
  all.resize(size + piece);
  stream.avail_in = static_cast<uInt>(std::min<std::size_t>(left, UINT_MAX));
  const uInt given = stream.avail_in;
  stream.next_out = bytes_of(all.data() + size);
  stream.avail_out = piece;
  const int outcome = work(&stream);
  left -= given - stream.avail_in;
  all.resize(size + piece - stream.avail_out);
  return outcome;
}

}  // namespace

std::string_view coding_of(std::string_view content_encoding) {
  if (content_encoding.empty() || content_encoding == "identity") {
    return "";
  }
  const auto coding = known(content_encoding);
  if (coding.empty()) {
    throw bad_request(
        text("the body has content-encoding ", as_sent(content_encoding), ", wanted gzip, deflate or none"));
  }
  return coding;
}

std::string_view wanted_coding(std::string_view accept_encoding) {
  while (!accept_encoding.empty()) {
    const auto comma = std::min(accept_encoding.find(','), accept_encoding.size());
    const auto item = accept_encoding.substr(0, comma);
    const auto semicolon = std::min(item.find(';'), item.size());
    const auto coding = known(trimmed(item.substr(0, semicolon)));
    if (!coding.empty() && !is_refused(item.substr(std::min(semicolon + 1, item.size())))) {
      return coding;
    }
    accept_encoding.remove_prefix(std::min(comma + 1, accept_encoding.size()));
  }
  return "";
}

Body decompressed(std::span<const std::byte> body, std::string_view coding, std::size_t limit, std::size_t aligned_at) {
  Stream<inflateEnd> stream;
  if (inflateInit2(&stream, window_of(coding)) != Z_OK) {
    throw std::bad_alloc();
  }
  std::string all;
  stream.next_in = bytes_of(body.data());
  int outcome = Z_OK;
  std::size_t left = body.size();
  while (outcome == Z_OK && (left != 0 || stream.avail_out == 0)) {
    outcome = go_on(stream, left, all, [](z_stream* now) { return inflate(now, Z_NO_FLUSH); });
    if (all.size() > limit) {
      throw too_large(text("the request's body is larger than the ", limit, " bytes that this server takes"));
    }
  }
  if (outcome == Z_MEM_ERROR) {
    throw std::bad_alloc();
  }
  if (outcome != Z_STREAM_END || left != 0) {
    const std::string_view why = outcome == Z_STREAM_END                     ? "it goes on behind its end"
                                 : outcome == Z_OK || outcome == Z_BUF_ERROR ? "it ends before its end"
                                                                             : "its bytes are wrong";
    throw bad_request(text("the body is not ", coding, " (", why, ")"));
  }
  Body found = body_of(all.size(), std::min(aligned_at, all.size()));
  std::memcpy(found.bytes.data(), all.data(), all.size());
  return found;
}

std::string compressed(std::span<const std::string_view> pieces, std::string_view coding) {
  constexpr int memory = 8;
  Stream<deflateEnd> stream;
  if (deflateInit2(&stream, level, Z_DEFLATED, window_of(coding), memory, Z_DEFAULT_STRATEGY) != Z_OK) {
    throw std::bad_alloc();
  }
  std::string all;
  const auto take = [&](std::string_view bytes, int flush) {
    stream.next_in = bytes_of(bytes.data());
    std::size_t left = bytes.size();
    int outcome = Z_OK;
    do {
      outcome = go_on(stream, left, all, [&](z_stream* now) { return deflate(now, flush); });
    } while (flush == Z_FINISH ? outcome != Z_STREAM_END : left != 0);
  };
  for (const std::string_view each : pieces) {
    take(each, Z_NO_FLUSH);
  }
  take("", Z_FINISH);
  return all;
}

}  // namespace plainconv::serve
