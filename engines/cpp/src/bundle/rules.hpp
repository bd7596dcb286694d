// What must hold between the records of a manifest: all that chain.hpp and the rules of one kind have, in order. Pure:
// no file is read here.
#pragma once

#include <string_view>

#include "bundle/manifest.hpp"
#include "bundle/problems.hpp"

namespace plainconv {

/// Everything that the manifest says and may not say; sizes and hashes in `files` are taken as true.
[[nodiscard]] Problems problems(const Manifest& manifest);

/// Whether a bundle may hold a file of this name: at most four levels of portable ASCII, nothing that climbs out.
[[nodiscard]] bool is_file_name(std::string_view name);

}  // namespace plainconv
