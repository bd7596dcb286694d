// Messages of gRPC to requests, and outputs to messages. Inputs are raw, one in `raw_input_contents` for each, or
// typed, in `contents`; outputs are sent as the inputs were. Tensors in shared memory have no contents, but an output
// of them an empty one where the others are raw.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "inference.pb.h"
#include "requests.hpp"
#include "service.hpp"

namespace plainconv::serve::rpc {

/// The bytes that a message may have: a body's, and its names, shapes and parameters. More than an int no message has.
[[nodiscard]] inline std::size_t most_message(const ServeOptions& options) noexcept {
  return std::min<std::size_t>(options.max_body + mebibyte, std::numeric_limits<int>::max());
}

/// What was received, as that message, which has up to `limit` bytes once it is decompressed: so many. Throws Refused.
std::size_t read(grpc::ByteBuffer& sent, std::size_t limit, google::protobuf::MessageLite& message);

/// A message as it is sent.
[[nodiscard]] grpc::ByteBuffer written(const google::protobuf::MessageLite& message);

/// The request in a message, whose raw tensors stay there; its sender waits `remaining` more. Throws Refused.
[[nodiscard]] InferRequest decoded(inference::ModelInferRequest& message, std::optional<Seconds> remaining,
                                   bool offers_shared_memory);

/// The answer to a request whose job is done.
[[nodiscard]] inference::ModelInferResponse encoded(const Asked& asked);

}  // namespace plainconv::serve::rpc
