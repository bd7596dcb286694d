// The optimization profiles of a network: which shapes its inputs may have. Pure.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bundle/manifest.hpp"
#include "plainconv/bundle.hpp"
#include "tensorrt/engine.hpp"

namespace plainconv {

/// The shapes that one optimization profile covers, of each input of the network; nothing where it is fixed.
using Profile = std::vector<std::optional<ShapeRange>>;

/// The profile that covers these shapes, by name.
[[nodiscard]] Profile profile_of(const std::vector<std::pair<std::string, ShapeRange>>& covered,
                                 const std::vector<TensorSpec>& inputs);

/// The position of the first profile that covers `given`, 0 where all shapes are fixed. Throws EngineError: none does.
[[nodiscard]] std::size_t profile_for(const std::vector<Profile>& profiles, const std::vector<TensorSpec>& inputs,
                                      std::span<const ConstTensor> given);

/// The largest shape of each input in the profile `at`. Throws EngineError where one has a free axis that none covers.
[[nodiscard]] std::vector<Shape> largest_of(const std::vector<Profile>& profiles, std::size_t at,
                                            const std::vector<TensorSpec>& inputs);

}  // namespace plainconv
