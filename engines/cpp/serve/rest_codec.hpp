// A request's body to an InferRequest, outputs to what is sent: JSON, then any binary tensors.
//
// The JSON is as long as the header Inference-Header-Content-Length says, else it is the whole body. Binary tensors
// follow in the order of the inputs that have `binary_data_size`.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "body.hpp"
#include "bundle/json.hpp"
#include "requests.hpp"

namespace plainconv::serve {

inline constexpr std::string_view header_length_name = "inference-header-content-length";
inline constexpr std::size_t most_json = 16 * mebibyte;

/// How many of the body's bytes are JSON, nothing where all are. Throws Refused.
[[nodiscard]] std::optional<std::size_t> header_length(std::optional<std::string_view> sent, std::size_t body);

/// The request in `body`; its binary tensors stay there. Throws Refused at the first thing that is wrong.
[[nodiscard]] InferRequest decoded(std::span<const std::byte> body, std::optional<std::size_t> json_length,
                                   bool offers_shared_memory = false);

/// The JSON object that is all of `body`, an empty one where that is empty. Throws Refused.
[[nodiscard]] json::Value object_of(std::span<const std::byte> body);

/// The JSON of an answer.
[[nodiscard]] std::string encoded(std::string_view model, std::string_view version, std::string_view id,
                                  std::span<const SentOutput> outputs);

}  // namespace plainconv::serve
