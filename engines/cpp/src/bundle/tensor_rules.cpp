#include "bundle/tensor_rules.hpp"

#include <algorithm>

#include "text.hpp"

namespace plainconv {
namespace {

std::string dtype_names(std::size_t count) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    names.emplace_back(name_of(static_cast<DType>(i)));
  }
  return joined(names, ", ");
}

}  // namespace

Problems tensor_problems(const TensorRecord& spec, std::size_t dtypes) {
  Problems found;
  if (spec.name.empty()) {
    found.emplace_back("a tensor has no name");
  }
  const auto dtype = dtype_of_name(spec.dtype);
  if (!dtype || static_cast<std::size_t>(*dtype) >= dtypes) {
    found.push_back(text(spec.name, " has dtype ", repr(spec.dtype), ", wanted one of ", dtype_names(dtypes)));
  }
  const auto is_axis = [](const Axis& axis) {
    const auto* name = std::get_if<std::string>(&axis);
    return name != nullptr ? !name->empty() : std::get<std::int64_t>(axis) >= 1;
  };
  if (!std::ranges::all_of(spec.shape, is_axis)) {
    found.push_back(text(spec.name, " has shape ", listed(spec.shape), ", wanted sizes of at least 1 or names"));
  }
  return found;
}

}  // namespace plainconv
