#include "bundle/manifest.hpp"

#include <algorithm>
#include <array>

#include "text.hpp"

namespace plainconv {
namespace {

struct Named {
  std::string_view name;
  std::size_t size;
};

constexpr std::array<Named, 10> dtypes = {{
    {"bool", 1},
    {"int8", 1},
    {"uint8", 1},
    {"int32", 4},
    {"int64", 8},
    {"float16", 2},
    {"bfloat16", 2},
    {"float32", 4},
    {"float64", 8},
    {"float8_e4m3fn", 1},
}};

}  // namespace

std::string_view name_of(DType dtype) noexcept { return dtypes.at(static_cast<std::size_t>(dtype)).name; }

std::size_t size_of(DType dtype) noexcept { return dtypes.at(static_cast<std::size_t>(dtype)).size; }

std::string text_of(const TensorSpec& spec) { return text(spec.name, " ", name_of(spec.dtype), shown(spec.shape)); }

std::optional<DType> dtype_of_name(std::string_view name) noexcept {
  const auto* found = std::ranges::find(dtypes, name, &Named::name);
  return found == dtypes.end() ? std::nullopt : std::optional(static_cast<DType>(found - dtypes.begin()));
}

TensorSpec spec_of(const TensorRecord& record) {
  return {record.name, dtype_of_name(record.dtype).value(), record.shape};
}

std::vector<TensorSpec> specs_of(const std::vector<TensorRecord>& records) {
  std::vector<TensorSpec> specs;
  specs.reserve(records.size());
  std::ranges::transform(records, std::back_inserter(specs), spec_of);
  return specs;
}

}  // namespace plainconv
