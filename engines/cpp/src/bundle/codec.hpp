// The bytes of manifest.json to its records.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "bundle/manifest.hpp"

namespace plainconv {

/// The manifest_sha256 that the bytes of a manifest.json carry; nothing where they carry none or do not match it.
[[nodiscard]] std::optional<std::string> sha256_in_manifest(std::string_view raw);

/// Parse a manifest.json.
///
/// Throws BundleError where any byte of it was changed, it is of another format version, or a key is missing or of the
/// wrong type. Whether its parts agree with each other is for rules.hpp.
[[nodiscard]] Manifest manifest_of_bytes(std::string_view raw);

}  // namespace plainconv
