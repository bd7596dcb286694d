#include "predict/orientation.hpp"

#include <array>
#include <cstdint>

#include "predict/reader.hpp"

namespace plainconv {
namespace {

constexpr std::uint32_t orientation_tag = 0x0112;
constexpr std::uint32_t short_type = 3;
constexpr std::uint32_t long_type = 4;
constexpr std::size_t entry_size = 12;

}  // namespace

std::optional<int> orientation_of_exif(std::span<const std::byte> tiff) {
  const std::string_view start = text_in(tiff).substr(0, 4);
  const bool is_little = start == std::string_view("II*\0", 4);
  if (tiff.size() < 8 || (!is_little && start != std::string_view("MM\0*", 4))) {
    return std::nullopt;
  }
  const std::size_t at = number_of(tiff.subspan(4), 4, is_little);
  if (at + 2 > tiff.size()) {
    return std::nullopt;
  }
  ByteReader entries(tiff.subspan(at + 2));
  std::optional<int> found;
  for (auto left = number_of(tiff.subspan(at), 2, is_little); left > 0 && entries.has(entry_size); --left) {
    const auto entry = entries.take(entry_size);
    const auto type = number_of(entry.subspan(2), 2, is_little);
    const bool is_one = number_of(entry.subspan(4), 4, is_little) == 1;
    if (number_of(entry, 2, is_little) == orientation_tag && is_one && (type == short_type || type == long_type)) {
      found = static_cast<int>(number_of(entry.subspan(8), type == short_type ? 2 : 4, is_little));
    }
  }
  return found;
}

std::optional<int> orientation_of_xmp(std::string_view xmp) {
  constexpr std::string_view name = "tiff:Orientation";
  for (std::size_t at = 0; (at = xmp.find(name, at)) != std::string_view::npos;) {
    at += name.size();
    const std::string_view rest = xmp.substr(at);
    const std::size_t before = rest.starts_with("=\"") ? 2 : rest.starts_with(">") ? 1 : 0;
    if (before != 0 && rest.size() > before && rest[before] >= '0' && rest[before] <= '9') {
      return rest[before] - '0';
    }
  }
  return std::nullopt;
}

}  // namespace plainconv
