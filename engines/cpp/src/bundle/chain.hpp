// The chain of a manifest: from link to link, what each file of the bundle was made from. Pure.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.hpp"
#include "bundle/problems.hpp"

namespace plainconv {

/// Those of `names` that are files of the manifest.
[[nodiscard]] std::vector<std::string> present(const Manifest& manifest, std::initializer_list<std::string> names);

[[nodiscard]] std::vector<const Link*> links_of(const Manifest& manifest, std::string_view step);

/// Whether exactly one of `links` is over `files`, and it has this hash and parent.
[[nodiscard]] bool is_linked(const std::vector<const Link*>& links, const std::vector<std::string>& files,
                             const std::string& sha256, const std::string& parent);

/// Links that start from none before them or do not have the hash of their files; no link or two of the ONNX model.
[[nodiscard]] Problems chain_problems(const Manifest& manifest);

}  // namespace plainconv
