// Compressed bodies: gzip and deflate (RFC 9110 §8.4.1), as Triton's clients send them and ask for them.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "body.hpp"

namespace plainconv::serve {

inline constexpr std::size_t least_compressed = 1024;  // smaller answers are sent as they are

/// How a body with that content-encoding is compressed, "" where it is not. Throws Refused.
[[nodiscard]] std::string_view coding_of(std::string_view content_encoding);

/// How the sender of that accept-encoding wants its answer compressed, "" where it does not.
[[nodiscard]] std::string_view wanted_coding(std::string_view accept_encoding);

/// What `body` is once decompressed, its byte `aligned_at` where any number may be. Throws Refused for what is none, or
/// has more than `limit` bytes.
[[nodiscard]] Body decompressed(std::span<const std::byte> body, std::string_view coding, std::size_t limit,
                                std::size_t aligned_at);

/// The pieces, as one.
[[nodiscard]] std::string compressed(std::span<const std::string_view> pieces, std::string_view coding);

}  // namespace plainconv::serve
