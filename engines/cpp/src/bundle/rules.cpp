#include "bundle/rules.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "bundle/chain.hpp"
#include "bundle/engine_rules.hpp"
#include "bundle/image_rules.hpp"
#include "bundle/sha256.hpp"
#include "bundle/split_rules.hpp"
#include "bundle/tensor_rules.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::size_t most_levels = 4;
constexpr std::size_t longest_part = 120;

bool is_letter_or_digit(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

bool is_part_of_name(std::string_view part) {
  if (part.empty() || part.size() > longest_part || !(is_letter_or_digit(part.front()) || part.front() == '_')) {
    return false;
  }
  const auto allowed = [](char c) { return is_letter_or_digit(c) || c == '.' || c == '_' || c == '-'; };
  return std::ranges::all_of(part, allowed) && part.back() != '.';
}

bool is_tolerance(double value) { return value > 0 && std::isfinite(value); }

Problems file_problems(const Manifest& manifest) {
  Problems found;
  for (const std::string& name : manifest.file_names) {
    if (!is_file_name(name)) {
      found.push_back(text(repr(name), " is no file name that a bundle may hold"));
    }
  }
  for (const std::string& name : manifest.file_names) {
    const FileRecord& record = manifest.files.at(name);
    if (record.size < 0 || !is_sha256(record.sha256)) {
      found.push_back(text("files.", name, " is not a size and a sha256"));
    }
  }
  if (!all_different(manifest.file_names, lower)) {
    found.emplace_back("two file names differ only in case");
  }
  if (!manifest.files.contains(model_name)) {
    found.push_back(text(model_name, " is not among the files"));
  }
  return found;
}

Problems network_problems(std::string_view what, const std::vector<TensorRecord>& specs) {
  Problems found;
  if (specs.empty() || !all_different(specs, [](const TensorRecord& spec) { return spec.name; })) {
    found.push_back(text(what, " is empty or names one tensor twice"));
  }
  for (const TensorRecord& spec : specs) {
    for (const std::string& problem : tensor_problems(spec, dtypes_of_networks)) {
      found.push_back(text(what, ": ", problem));
    }
  }
  return found;
}

/// What is wrong with graphs whose links are `step`.
Problems problems_of_graphs(const Manifest& manifest, const std::vector<GraphRecord>& graphs, std::string_view step) {
  Problems found;
  std::set<std::string> onnx;
  for (const Link* link : links_of(manifest, "onnx")) {
    onnx.insert(link->sha256);
  }
  const auto links = links_of(manifest, step);
  for (const GraphRecord& graph : graphs) {
    const std::string at = text("graph ", graph.file);
    if (!is_linked(links, present(manifest, {graph.file, graph.file + ".data"}), graph.sha256, graph.onnx_sha256)) {
      found.push_back(at + " is not linked to the ONNX model it was made from: the chain is broken");
    }
    if (!onnx.contains(graph.onnx_sha256)) {
      found.push_back(at + " was made from an ONNX model that is not in the bundle");
    }
    if (!manifest.files.contains(graph.reference)) {
      found.push_back(text(at, " has a reference ", graph.reference, ", which is not among the files"));
    }
    if (graph.precision == "fp32") {
      found.push_back(text(at, " is fp32, wanted a lower precision: fp32 is ", model_name));
    }
    if (!is_tolerance(graph.tolerance)) {
      found.push_back(text(at, " has tolerance ", decimal(graph.tolerance), ", wanted a positive number"));
    }
  }
  const bool once = all_different(graphs, [](const GraphRecord& graph) { return graph.precision; });
  if (links.size() != graphs.size() || !once) {
    found.push_back(
        text("the chain has ", links.size(), " ", step, " links for ", graphs.size(), " graphs, one a precision"));
  }
  return found;
}

Problems graph_problems(const Manifest& manifest) {
  Problems found = problems_of_graphs(manifest, manifest.graphs, "typed");
  std::ranges::move(problems_of_graphs(manifest, manifest.cpu_graphs, "typed-cpu"), std::back_inserter(found));
  return found;
}

}  // namespace

bool is_file_name(std::string_view name) {
  std::size_t levels = 1;
  std::string_view rest = name;
  for (auto slash = rest.find('/'); slash != std::string_view::npos; slash = rest.find('/')) {
    if (!is_part_of_name(rest.substr(0, slash))) {
      return false;
    }
    rest.remove_prefix(slash + 1);
    ++levels;
  }
  return levels <= most_levels && is_part_of_name(rest) && lower(name) != manifest_name;
}

Problems problems(const Manifest& manifest) {
  Problems found = file_problems(manifest);
  std::ranges::move(network_problems("inputs", manifest.inputs), std::back_inserter(found));
  std::ranges::move(network_problems("outputs", manifest.outputs), std::back_inserter(found));
  if (found.empty()) {
    for (const auto check : {image_problems, chain_problems, graph_problems, engine_problems, split_problems}) {
      std::ranges::move(check(manifest), std::back_inserter(found));
    }
  }
  std::ranges::transform(found, found.begin(), escaped);
  return found;
}

}  // namespace plainconv
