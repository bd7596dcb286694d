// Given any bytes as what a client sends -> heads, chunks and requests that keep what they promise, or Refused.
//
// The first byte says how: a whole connection, a body of JSON, a body whose first bytes (the second and third say how
// many) are JSON and whose rest are binary tensors, or a body that is compressed. The bytes of a connection arrive in
// pieces of the second byte's size, and what is read of them must not depend on it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "access_log.hpp"
#include "coding.hpp"
#include "input_checks.hpp"
#include "refusals.hpp"
#include "request_parser.hpp"
#include "rest_codec.hpp"
#include "routes.hpp"
#include "text.hpp"

namespace {

using plainconv::Axis;
using plainconv::DType;

void check(bool holds) {
  if (!holds) {
    __builtin_trap();
  }
}

constexpr std::size_t limit = 1000;

/// What is read of a connection, as text: each request's head and body. One that has no end may be refused before it.
std::string read_connection(std::string_view bytes, std::size_t piece) {
  namespace serve = plainconv::serve;
  std::string found;
  std::string waiting;
  try {
    while (true) {
      serve::RequestParser parser(limit);
      std::size_t length = 0;
      while (!parser.has_head() || !(parser.has_chunks() || parser.head().length)) {
        waiting.erase(0, parser.read(waiting));
        check(waiting.size() <= serve::most_head + serve::most_framing + 2 * limit + piece);
        if (parser.has_head() && (parser.has_chunks() || parser.head().length)) {
          break;
        }
        if (bytes.empty()) {
          return found;
        }
        waiting += bytes.substr(0, piece);
        bytes.remove_prefix(std::min(piece, bytes.size()));
      }
      const serve::Head& head = parser.head();
      check(!head.method.empty() && head.path.starts_with('/'));
      check(parser.body().size() <= limit && parser.has_chunks() != head.length.has_value());
      found += plainconv::text(head.method, " ", head.path, " ", head.content_encoding, " ", parser.body(), "\n");
      length = head.length.value_or(0);
      waiting += bytes;  // its body is read without a parser
      bytes = {};
      if (length > waiting.size() || head.closes) {
        return found;
      }
      waiting.erase(0, length);
      try {
        (void)serve::header_length(head.json_length, limit);
        (void)serve::coding_of(head.content_encoding);
        (void)serve::wanted_coding(head.accept_encoding);
        (void)serve::trace_of(head.traceparent, head.tracestate);
        (void)serve::route_of(head.method, head.path);
      } catch (const serve::Refused& refused) {
        check(refused.status() >= 400 && refused.status() < 500);
      }
    }
  } catch (const serve::Refused& refused) {
    check((refused.status() >= 400 && refused.status() < 500) || refused.status() == 505);
    return found;
  }
}

void read_body(const std::vector<std::byte>& body, std::optional<std::size_t> json_length) {
  static const std::vector<plainconv::TensorSpec> inputs = {{"x", DType::float32, {std::string("N"), 2}},
                                                            {"h", DType::float16, {std::string("N")}},
                                                            {"b", DType::bool_, {1}}};
  static const std::vector<plainconv::TensorSpec> outputs = {{"y", DType::int64, {std::string("N")}}};
  const auto request = plainconv::serve::decoded(body, json_length);
  for (const auto& input : request.inputs) {
    std::size_t size = input.datatype->size;
    for (const std::int64_t axis : input.shape) {
      check(axis >= 0);
      size *= static_cast<std::size_t>(axis);
    }
    check(input.bytes.size() == size);
    check(reinterpret_cast<std::uintptr_t>(input.bytes.data()) % input.datatype->size == 0);  // NOLINT
  }
  check(plainconv::serve::checked_inputs(request.inputs, inputs).size() == inputs.size());
  check(!plainconv::serve::chosen_outputs(request, outputs).empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 3) {
    return 0;
  }
  try {
    const auto* bytes = reinterpret_cast<const std::byte*>(data);  // NOLINT(*-reinterpret-cast)
    switch (data[0] % 4) {
      case 0: {
        const std::string sent(data + 2, data + size);
        check(read_connection(sent, 1UL + data[1]) == read_connection(sent, 1UL + size));
        break;
      }
      case 1: read_body({bytes + 1, bytes + size}, std::nullopt); break;
      case 2: {
        const auto body =
            plainconv::serve::decompressed({bytes + 2, size - 2}, data[1] % 2 == 0 ? "gzip" : "deflate", limit, 0);
        check(body.bytes.size() <= limit);
        break;
      }
      default: {
        const std::size_t json_length = data[1] + 256UL * data[2];
        read_body({bytes + 3, bytes + size}, std::min(json_length, size - 3));
      }
    }
  } catch (const plainconv::serve::Refused& refused) {
    check(refused.status() >= 400 && refused.status() < 500);
  }
  return 0;
}
