// How much a shape has, however large its sizes are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace plainconv::serve {

/// factor · size · size · …, where that is below 2**64.
[[nodiscard]] std::optional<std::size_t> product(std::span<const std::int64_t> shape, std::size_t factor) noexcept;

/// The same in decimals, however large it is.
[[nodiscard]] std::string product_in_words(std::span<const std::int64_t> shape, std::size_t factor);

}  // namespace plainconv::serve
