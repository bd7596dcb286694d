// Given any bytes as what a client sends -> a head and a request that keep what they promise, or Refused.
//
// The first byte says how: a head alone, a body of JSON, or a body whose first bytes (the second and third say how
// many) are JSON and whose rest are binary tensors.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "head.hpp"
#include "input_checks.hpp"
#include "refusals.hpp"
#include "rest_codec.hpp"
#include "routes.hpp"

namespace {

using plainconv::Axis;
using plainconv::DType;

void check(bool holds) {
  if (!holds) {
    __builtin_trap();
  }
}

void read_head(const std::string& bytes) {
  const auto size = plainconv::serve::head_size(bytes);
  if (!size) {
    return;
  }
  const auto head = plainconv::serve::head_of(std::string_view(bytes).substr(0, *size));
  check(!head.method.empty() && !head.target.empty() && !(head.is_chunked && head.content_length));
  const auto length = plainconv::serve::body_length(head, 1000);
  check(length.has_value() != head.is_chunked && length.value_or(0) <= 1000);
  (void)plainconv::serve::header_length(head.json_length, 1000);
  (void)plainconv::serve::chunk_size(head.target);
  (void)plainconv::serve::route_of(head.method, head.target);
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
    switch (data[0] % 3) {
      case 0: read_head(std::string(data + 1, data + size)); break;
      case 1: read_body({bytes + 1, bytes + size}, std::nullopt); break;
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
