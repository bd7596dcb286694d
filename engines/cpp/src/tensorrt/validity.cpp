#include "tensorrt/validity.hpp"

#include <array>
#include <vector>

#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::array<std::string_view, 7> causes_by_bit = {
    "version mismatch",        "unsupported cc",   "old cuda driver", "old cuda runtime",
    "insufficient gpu memory", "malformed engine", "cuda error"};
constexpr std::size_t old_driver = 2;

}  // namespace

std::string words_of(Validity validity, std::uint64_t causes, std::string_view runtime,
                     const std::function<std::string()>& error) {
  if (validity == Validity::valid) {
    return "";
  }
  const auto is_set = [&](std::size_t bit) { return ((causes >> bit) & 1U) != 0; };
  std::vector<std::string> names;
  for (std::size_t bit = 0; bit < causes_by_bit.size(); ++bit) {
    if (is_set(bit)) {
      names.emplace_back(causes_by_bit.at(bit));
    }
  }
  const bool is_invalid = validity == Validity::invalid;
  return text(runtime, " finds it ", is_invalid ? "invalid" : "suboptimal", " (",
              names.empty() ? error() : joined(names, ", "), ")", is_invalid ? "; " : ", it runs slower; ",
              is_set(old_driver) ? "update the NVIDIA driver" : "build it again with `exporter build`");
}

}  // namespace plainconv
