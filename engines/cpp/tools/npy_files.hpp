// The .npy files that a command names for the tensors of a network.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plainconv/bundle.hpp"

namespace plainconv::tools {

/// FILE of "[NAME=]FILE" for each of `specs`, in their order; empty for those that are not given.
[[nodiscard]] std::vector<std::string> files_of(std::string_view role, std::span<const std::string> given,
                                                std::span<const TensorSpec> specs);

/// What the file of each of `specs` holds. Throws Error, in one line that names it.
[[nodiscard]] std::vector<Array> arrays_of_files(std::span<const std::string> files, std::span<const TensorSpec> specs);

/// Write a file whole or not at all.
void write_file(const std::string& path, std::string_view bytes);

}  // namespace plainconv::tools
