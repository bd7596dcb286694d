#include "datatypes.hpp"

#include <algorithm>
#include <vector>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {

const Datatype& datatype_sent(std::string_view tensor, const json::Value* sent) {
  const auto* name = sent == nullptr ? nullptr : std::get_if<std::string>(sent);
  const auto* found = name == nullptr ? datatypes.end() : std::ranges::find(datatypes, *name, &Datatype::name);
  if (found == datatypes.end()) {
    std::vector<std::string> names;
    std::ranges::transform(datatypes, std::back_inserter(names),
                           [](const Datatype& each) { return std::string(each.name); });
    throw bad_request(
        text("input ", as_sent(tensor), " has datatype ", as_sent(sent), ", wanted one of ", joined(names, ", ")));
  }
  return *found;
}

std::string_view datatype_of(DType dtype) noexcept {
  const auto* found = std::ranges::find(datatypes, std::optional(dtype), &Datatype::dtype);
  return found == datatypes.end() ? "" : found->name;
}

}  // namespace plainconv::serve
