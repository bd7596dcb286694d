// A request and its answer, without the protocol that carries them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "datatypes.hpp"
#include "options.hpp"

namespace plainconv::serve {

/// An input as it was sent. `bytes` are those of the body, or of `own`.
struct SentTensor {
  std::string name;
  const Datatype* datatype = nullptr;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::vector<std::byte> own;
};

/// An output that was asked for; `binary` is how it is to be sent, nothing where the request says so for all.
struct WantedOutput {
  std::string name;
  std::optional<bool> binary;
};

/// What was sent; `outputs` that are wanted (none: all), and how those are sent that do not say so themselves.
struct InferRequest {
  std::vector<SentTensor> inputs;
  std::vector<WantedOutput> outputs;
  std::string id;
  std::optional<Seconds> timeout;
  bool binary = false;
};

}  // namespace plainconv::serve
