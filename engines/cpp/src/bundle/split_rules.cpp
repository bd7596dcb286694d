#include "bundle/split_rules.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "bundle/chain.hpp"
#include "bundle/engine_rules.hpp"
#include "bundle/tensor_rules.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::int64_t most_devices = 1024;  // of a split, and streams of a device: more than any machine has

bool is_count(std::int64_t given) { return given >= 1 && given <= most_devices; }

Problems part_problems(const PartRecord& part, const SplitRecord& split, const Manifest& manifest) {
  Problems found;
  if (part.name.empty()) {
    found.emplace_back("has no name");
  }
  const auto files = present(manifest, {part.file, part.file + ".data"});
  if (!is_linked(links_of(manifest, "part"), files, part.sha256, split.onnx_sha256)) {
    found.emplace_back("is not linked to the graph it is a part of: the chain is broken");
  }
  const bool is_there =
      part.device >= 0 && part.device < split.devices && part.stream >= 0 && part.stream < split.streams;
  if (!is_there) {
    found.push_back(text("is on device ", part.device, ", stream ", part.stream, ", which the split does not have"));
  }
  for (const bool outputs : {false, true}) {
    const auto& specs = outputs ? part.outputs : part.inputs;
    const std::string_view what = outputs ? "outputs" : "inputs";
    if (!all_different(specs, [](const TensorRecord& spec) { return spec.name; }) || (outputs && specs.empty())) {
      found.push_back(text("has no ", what, ", or names one twice"));
    }
    for (const TensorRecord& spec : specs) {
      for (const std::string& problem : tensor_problems(spec, dtypes_of_networks + 1)) {
        found.push_back(text(what, ": ", problem));
      }
    }
  }
  return found;
}

/// Whether `sources` has a member for each of `specs`, and no other.
bool has_names_of(const ByName<std::optional<std::string>>& sources, const std::vector<TensorRecord>& specs) {
  std::set<std::string> names;
  for (const TensorRecord& spec : specs) {
    names.insert(spec.name);
  }
  return std::ranges::equal(sources, names, {}, [](const auto& source) { return source.first; });
}

std::optional<std::string> source_of(const ByName<std::optional<std::string>>& sources, const std::string& name) {
  const auto found = sources.find(name);
  return found == sources.end() ? std::nullopt : found->second;
}

std::string called(const std::optional<std::string>& part, std::string_view otherwise) {
  return part && !part->empty() ? *part : std::string(otherwise);
}

/// Inputs of parts, and outputs of the network, that do not come from where they are said to.
Problems wiring_problems(const SplitRecord& split, const Manifest& manifest) {
  Problems found;
  using Maker = std::pair<std::optional<std::string>, std::string>;
  std::map<Maker, std::string> made;
  const auto gives = [&](const std::optional<std::string>& part, const TensorRecord& spec) {
    const auto value = made.find(Maker{part, spec.name});
    return value != made.end() && value->second == spec.dtype;
  };
  for (const TensorRecord& spec : manifest.inputs) {
    made.insert_or_assign(Maker{std::nullopt, spec.name}, spec.dtype);
  }
  for (const PartRecord& part : split.parts) {
    if (!has_names_of(part.sources, part.inputs)) {
      found.push_back(text("part ", part.name, " has sources for other inputs than its own"));
    }
    for (const TensorRecord& spec : part.inputs) {
      const auto source = source_of(part.sources, spec.name);
      if (!gives(source, spec)) {
        found.push_back(text("part ", part.name, " reads ", spec.name, " of ", called(source, "the network"),
                             ", which does not give it as ", spec.dtype, " before"));
      }
    }
    for (const TensorRecord& spec : part.outputs) {
      made.insert_or_assign(Maker{part.name, spec.name}, spec.dtype);
    }
  }
  if (!has_names_of(split.results, manifest.outputs)) {
    found.emplace_back("its results are not the outputs of the network");
  }
  for (const TensorRecord& spec : manifest.outputs) {
    const auto source = source_of(split.results, spec.name);
    if (!gives(source, spec)) {
      found.push_back(
          text("output ", spec.name, " is taken from ", called(source, "the inputs"), ", which do not give it"));
    }
  }
  return found;
}

}  // namespace

Problems split_problems(const Manifest& manifest) {
  Problems found;
  std::unordered_map<std::string, std::string> precisions;
  for (const Link* link : links_of(manifest, "onnx")) {
    precisions.insert_or_assign(link->sha256, "fp32");
  }
  for (const GraphRecord& graph : manifest.graphs) {
    precisions.insert_or_assign(graph.sha256, graph.precision);
  }
  std::size_t parts = 0;
  for (const SplitRecord& split : manifest.splits) {
    const std::string at = text("split ", split.precision);
    const auto of = precisions.find(split.onnx_sha256);
    if (of == precisions.end() || of->second != split.precision) {
      found.push_back(text(at, " is not of the ", split.precision, " graph of the bundle: the chain is broken"));
    }
    if (!is_count(split.devices) || !is_count(split.streams)) {
      found.push_back(text(at, " is for ", split.devices, " devices of ", split.streams, " streams, wanted 1 to ",
                           most_devices, " of each"));
    }
    if (split.parts.empty() || !all_different(split.parts, [](const PartRecord& part) { return lower(part.name); })) {
      found.push_back(at + " has no parts, or two of one name");
    }
    for (const std::string& problem : wiring_problems(split, manifest)) {
      found.push_back(text(at, ": ", problem));
    }
    for (const PartRecord& part : split.parts) {
      for (const std::string& problem : part_problems(part, split, manifest)) {
        found.push_back(text(at, ": part ", part.name, " ", problem));
      }
    }
    parts += split.parts.size();
  }
  const auto links = links_of(manifest, "part").size();
  if (links != parts || !all_different(manifest.splits, [](const SplitRecord& split) { return split.precision; })) {
    found.push_back(
        text("the chain has ", links, " part links for ", parts, " parts, and no precision is split twice"));
  }
  std::vector<const EngineRecord*> all;
  for (const SplitRecord& split : manifest.splits) {
    EngineSources graphs;
    for (const PartRecord& part : split.parts) {
      graphs.insert_or_assign(part.sha256, EngineSource{split.precision, &part.inputs});
    }
    const auto engines = pointers_to(split.engines);
    std::ranges::move(problems_of_engines(manifest, engines, "part-engine", graphs), std::back_inserter(found));
    std::ranges::copy(engines, std::back_inserter(all));
  }
  std::ranges::move(count_problems(manifest, all, "part-engine"), std::back_inserter(found));
  return found;
}

}  // namespace plainconv
