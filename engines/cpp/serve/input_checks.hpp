// Whether what a request sends is what a model takes; one sentence at the first difference.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "plainconv/bundle.hpp"
#include "requests.hpp"

namespace plainconv::serve {

/// The inputs in the order of `specs`. Throws Refused where names, datatypes, ranks or sizes differ from them.
[[nodiscard]] std::vector<const SentTensor*> checked_inputs(std::span<const SentTensor> sent,
                                                            std::span<const TensorSpec> specs);

/// An output to be sent: which of the model's it is, and how; or to be put where it has its place.
struct Chosen {
  std::size_t index;
  bool binary;
  std::optional<Place> place = {};
};

/// The outputs to send, in order: those asked for, or all. Throws Refused for one that is not there.
[[nodiscard]] std::vector<Chosen> chosen_outputs(const InferRequest& request, std::span<const TensorSpec> specs);

}  // namespace plainconv::serve
