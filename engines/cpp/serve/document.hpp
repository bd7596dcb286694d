// The JSON of an inference request. Lists of numbers, which may be long, are kept as numbers.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "bundle/json.hpp"
#include "numbers.hpp"

namespace plainconv::serve {

/// What a request may have beside its numbers; a longer text would take many times its own size of memory.
inline constexpr std::size_t most_values = 65536;

/// A JSON text. `data[i]` is the list that the member "data" of element i of "inputs" is; there is none where it is
/// something else, which then is in `root`. Where it is a list, `root` has an empty one.
struct Document {
  json::Value root;
  std::vector<std::optional<Numbers>> data;
};

/// Throws json::SyntaxError, as json::parse does, and for more than `most_values`.
[[nodiscard]] Document document_of(std::string_view text);

}  // namespace plainconv::serve
