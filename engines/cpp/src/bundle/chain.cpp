#include "bundle/chain.hpp"

#include <algorithm>
#include <set>

#include "bundle/sha256.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

/// The hash of one file or of several as one thing, as `sha256sum` would print it.
std::string sha256_of_files(const Manifest& manifest, const std::vector<std::string>& names) {
  const std::set<std::string> sorted(names.begin(), names.end());
  if (sorted.size() == 1) {
    return manifest.files.at(*sorted.begin()).sha256;
  }
  std::string lines;
  for (const std::string& name : sorted) {
    lines += text(manifest.files.at(name).sha256, "  ", name, "\n");
  }
  return sha256_of(lines);
}

}  // namespace

std::vector<std::string> present(const Manifest& manifest, std::initializer_list<std::string> names) {
  std::vector<std::string> all;
  std::ranges::copy_if(names, std::back_inserter(all), [&](const auto& name) { return manifest.files.contains(name); });
  return all;
}

std::vector<const Link*> links_of(const Manifest& manifest, std::string_view step) {
  std::vector<const Link*> links;
  for (const Link& link : manifest.chain) {
    if (link.step == step) {
      links.push_back(&link);
    }
  }
  return links;
}

bool is_linked(const std::vector<const Link*>& links, const std::vector<std::string>& files, const std::string& sha256,
               const std::string& parent) {
  std::size_t own = 0;
  bool right = true;
  for (const Link* link : links) {
    if (link->files == files) {
      ++own;
      right = right && link->sha256 == sha256 && link->parent == parent;
    }
  }
  return own == 1 && right;
}

Problems chain_problems(const Manifest& manifest) {
  Problems found;
  std::set<std::string> seen;
  for (std::size_t i = 0; i < manifest.chain.size(); ++i) {
    const Link& link = manifest.chain[i];
    const std::string at = text("chain[", i, "] (", link.step, ")");
    if (!is_sha256(link.sha256)) {
      found.push_back(at + " has no sha256");
    }
    const bool starts_right = i == 0 ? !link.parent : link.parent && seen.contains(*link.parent);
    if (!starts_right) {
      found.push_back(at + " does not start from an earlier link: the chain is broken");
    }
    const auto missing =
        std::ranges::find_if(link.files, [&](const std::string& name) { return !manifest.files.contains(name); });
    if (missing != link.files.end()) {
      found.push_back(text(at, " names ", *missing, ", which is not among the files"));
    } else if (!link.files.empty() && link.sha256 != sha256_of_files(manifest, link.files)) {
      found.push_back(text(at, " does not have the hash of ", joined(link.files, " and "), ": the chain is broken"));
    }
    seen.insert(link.sha256);
  }
  const auto wanted = present(manifest, {std::string(model_name), std::string(model_data_name)});
  std::vector<std::set<std::string>> graphs;
  for (const Link& link : manifest.chain) {
    if (link.step == "onnx") {
      graphs.emplace_back(link.files.begin(), link.files.end());
    }
  }
  if (graphs.size() != 1 || graphs.front() != std::set<std::string>(wanted.begin(), wanted.end())) {
    found.push_back(text(R"(the chain needs exactly one link "onnx", over )", joined(wanted, " and ")));
  }
  return found;
}

}  // namespace plainconv
