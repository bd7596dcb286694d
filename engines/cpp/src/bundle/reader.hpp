// Opening a bundle: nothing of it is handed out before every byte of it has been checked. See exporter/BUNDLE.md.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "bundle/manifest.hpp"

namespace plainconv {

/// A bundle on disk, verified and read-only.
struct Bundle {
  std::filesystem::path folder;
  Manifest manifest;
  std::string sha256;  // the manifest's: the identity of everything in the bundle

  /// Verify the bundle in a folder. Throws BundleError, in one line, where anything of the specification does not hold.
  [[nodiscard]] static Bundle open(const std::filesystem::path& folder);

  /// The bytes of the file `name`, as they were verified. Throws BundleError where they have changed since.
  [[nodiscard]] std::string read(const std::string& name) const;

  /// The graph of a precision, by the name of its file: the one laid out for CPUs, where the bundle has one. Throws
  /// EngineError where it has none.
  [[nodiscard]] std::string graph_on_cpu(std::string_view precision) const;
};

/// The sha256 of the bundle in a folder, as its manifest says; nothing where there is none, or half of it.
[[nodiscard]] std::optional<std::string> identity_of(const std::filesystem::path& folder);

/// A path as Python shows it: without "." and doubled or trailing slashes.
[[nodiscard]] std::string shown_path(const std::filesystem::path& path);

}  // namespace plainconv
