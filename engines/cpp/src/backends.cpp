// The backends that this library was built with. CMake says which: what it did not find is not here.
#include <array>

#include "backends.hpp"
#ifdef PLAINCONV_ONNXRUNTIME
#include "onnxruntime/backend.hpp"
#endif
#ifdef PLAINCONV_TENSORRT
#include "tensorrt/backend.hpp"
#endif

namespace plainconv {
namespace {

constexpr std::array all = {
#ifdef PLAINCONV_TENSORRT
    Backend{.name = tensorrt_name, .load = load_by_tensorrt, .runs_engines = true},
#endif
#ifdef PLAINCONV_ONNXRUNTIME
    Backend{.name = "onnxruntime", .load = load_by_onnxruntime},
#endif
    Backend{},  // the end
};

constexpr auto names = [] {
  std::array<std::string_view, all.size()> found{};
  for (std::size_t i = 0; i < all.size(); ++i) {
    found[i] = all[i].name;  // NOLINT(*-constant-array-index)
  }
  return found;
}();

}  // namespace

std::span<const Backend> built_backends() noexcept { return std::span(all).first(all.size() - 1); }

std::span<const std::string_view> backends() noexcept { return std::span(names).first(names.size() - 1); }

}  // namespace plainconv
