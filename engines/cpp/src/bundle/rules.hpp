// What must hold between the records of a manifest. Pure: no file is read here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.hpp"

namespace plainconv {

/// Everything that the manifest says and may not say; sizes and hashes in `files` are taken as true.
[[nodiscard]] std::vector<std::string> problems(const Manifest& manifest);

/// Whether a bundle may hold a file of this name: at most four levels of portable ASCII, nothing that climbs out.
[[nodiscard]] bool is_file_name(std::string_view name);

}  // namespace plainconv
