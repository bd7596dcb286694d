#include "bundle/rules.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <tuple>
#include <unordered_map>

#include "bundle/sha256.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

using Found = std::vector<std::string>;

constexpr std::size_t most_levels = 4;
constexpr std::size_t longest_part = 120;
constexpr std::size_t dtypes_of_networks = 9;  // and one more between parts

bool is_letter_or_digit(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

bool is_part_of_name(std::string_view part) {
  if (part.empty() || part.size() > longest_part || !(is_letter_or_digit(part.front()) || part.front() == '_')) {
    return false;
  }
  const auto allowed = [](char c) { return is_letter_or_digit(c) || c == '.' || c == '_' || c == '-'; };
  return std::ranges::all_of(part, allowed) && part.back() != '.';
}

/// Whether `values`, as `key` sees them, are all different.
template <class Values, class Key>
bool all_different(const Values& values, Key key) {
  std::set<std::string> seen;
  return std::ranges::all_of(values, [&](const auto& value) { return seen.insert(std::string(key(value))).second; });
}

/// Those of `names` that are files of the manifest.
std::vector<std::string> present(const Manifest& manifest, std::initializer_list<std::string> names) {
  std::vector<std::string> all;
  std::ranges::copy_if(names, std::back_inserter(all), [&](const auto& name) { return manifest.files.contains(name); });
  return all;
}

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

bool is_tolerance(double value) { return value > 0 && std::isfinite(value); }

std::string dtype_names(std::size_t count) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    names.emplace_back(name_of(static_cast<DType>(i)));
  }
  return joined(names, ", ");
}

Found tensor_problems(const TensorRecord& spec, std::size_t dtypes) {
  Found found;
  if (spec.name.empty()) {
    found.emplace_back("a tensor has no name");
  }
  const auto dtype = dtype_of_name(spec.dtype);
  if (!dtype || static_cast<std::size_t>(*dtype) >= dtypes) {
    found.push_back(text(spec.name, " has dtype ", repr(spec.dtype), ", wanted one of ", dtype_names(dtypes)));
  }
  const auto is_axis = [](const Axis& axis) {
    const auto* name = std::get_if<std::string>(&axis);
    return name != nullptr ? !name->empty() : std::get<std::int64_t>(axis) >= 1;
  };
  if (!std::ranges::all_of(spec.shape, is_axis)) {
    found.push_back(text(spec.name, " has shape ", listed(spec.shape), ", wanted sizes of at least 1 or names"));
  }
  return found;
}

Found file_problems(const Manifest& manifest) {
  Found found;
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

Found network_problems(std::string_view what, const std::vector<TensorRecord>& specs) {
  Found found;
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

Found chain_problems(const Manifest& manifest) {
  Found found;
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

std::vector<const Link*> links_of(const Manifest& manifest, std::string_view step) {
  std::vector<const Link*> links;
  for (const Link& link : manifest.chain) {
    if (link.step == step) {
      links.push_back(&link);
    }
  }
  return links;
}

/// Whether exactly one of `links` is over `files`, and it has this hash and parent.
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

Found graph_problems(const Manifest& manifest) {
  Found found;
  std::set<std::string> onnx;
  for (const Link* link : links_of(manifest, "onnx")) {
    onnx.insert(link->sha256);
  }
  const auto links = links_of(manifest, "typed");
  for (const GraphRecord& graph : manifest.graphs) {
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
  const bool once = all_different(manifest.graphs, [](const GraphRecord& graph) { return graph.precision; });
  if (links.size() != manifest.graphs.size() || !once) {
    found.push_back(
        text("the chain has ", links.size(), " typed links for ", manifest.graphs.size(), " graphs, one a precision"));
  }
  return found;
}

/// What an engine may be built from: the precision that it then is (nothing: any), and its inputs.
struct Graph {
  std::optional<std::string> precision;
  const std::vector<TensorRecord>* inputs;
};
using Graphs = std::unordered_map<std::string, Graph>;

/// Whether an optimization profile's shapes are shapes of an input of this rank, in order.
bool covers(const ShapeRange& covered, std::size_t rank) {
  if (covered.min.size() != rank || covered.opt.size() != rank || covered.max.size() != rank) {
    return false;
  }
  for (std::size_t i = 0; i < rank; ++i) {
    if (!(covered.min[i] >= 1 && covered.min[i] <= covered.opt[i] && covered.opt[i] <= covered.max[i])) {
      return false;
    }
  }
  return true;
}

bool covers_inputs(const EngineRecord& engine, const Graph* graph) {
  for (const auto& profile : engine.profiles) {
    for (const auto& [name, covered] : profile) {
      if (graph == nullptr) {
        return false;
      }
      // of two of one name, which is an error too, the last
      const auto& specs = *graph->inputs;
      const auto spec = std::find_if(specs.rbegin(), specs.rend(),
                                     [&wanted = name](const auto& each) { return each.name == wanted; });
      if (spec == specs.rend() || !covers(covered, spec->shape.size())) {
        return false;
      }
    }
  }
  return true;
}

/// What is wrong with engines whose links are `step` and that are built from `graphs`, by hash.
Found problems_of_engines(const Manifest& manifest, const std::vector<const EngineRecord*>& engines,
                          std::string_view step, const Graphs& graphs) {
  Found found;
  const auto links = links_of(manifest, step);
  for (const EngineRecord* engine : engines) {
    const std::string at = text("engine ", engine->file);
    const auto file = manifest.files.find(engine->file);
    if (file == manifest.files.end() || file->second != FileRecord{engine->size, engine->sha256}) {
      found.push_back(at + " is not among the files with the size and sha256 of its record");
    }
    std::vector<const Link*> own;
    std::ranges::copy_if(links, std::back_inserter(own),
                         [&](const Link* link) { return link->files == std::vector{engine->file}; });
    const auto built_from = graphs.find(engine->onnx_sha256);
    const Graph* graph = built_from == graphs.end() ? nullptr : &built_from->second;
    if (own.size() != 1 || own.front()->parent != engine->onnx_sha256 || graph == nullptr) {
      found.push_back(at + " is not linked to the ONNX graph it was built from: the chain is broken");
    }
    if (graph != nullptr && graph->precision && *graph->precision != engine->precision) {
      found.push_back(text(at, " is ", engine->precision, ", but was built from the ", *graph->precision, " graph"));
    }
    if (engine->targets.empty() || !all_different(engine->targets, [](const std::string& target) { return target; })) {
      found.push_back(text(at, " has targets ", listed(engine->targets), ", wanted at least one, none twice"));
    }
    if (!covers_inputs(*engine, graph)) {
      found.push_back(at + " has an optimization profile that is none of the model's inputs");
    }
    if (engine->log && !manifest.files.contains(*engine->log)) {
      found.push_back(text(at, " has a log ", *engine->log, ", which is not among the files"));
    }
  }
  return found;
}

Found count_problems(const Manifest& manifest, const std::vector<const EngineRecord*>& engines, std::string_view step) {
  const std::size_t links = links_of(manifest, step).size();
  const bool once = all_different(engines, [](const EngineRecord* engine) { return engine->file; });
  if (links == engines.size() && once) {
    return {};
  }
  return {text("the chain has ", links, " ", step, " links for ", engines.size(), " engine records")};
}

std::vector<const EngineRecord*> pointers_to(const std::vector<EngineRecord>& records) {
  std::vector<const EngineRecord*> all;
  std::ranges::transform(records, std::back_inserter(all), [](const EngineRecord& record) { return &record; });
  return all;
}

Found engine_problems(const Manifest& manifest) {
  Graphs graphs;
  for (const Link* link : links_of(manifest, "onnx")) {
    graphs.insert_or_assign(link->sha256, Graph{std::nullopt, &manifest.inputs});
  }
  for (const GraphRecord& graph : manifest.graphs) {
    graphs.insert_or_assign(graph.sha256, Graph{graph.precision, &manifest.inputs});
  }
  const auto engines = pointers_to(manifest.engines);
  Found found = problems_of_engines(manifest, engines, "engine", graphs);
  std::ranges::move(count_problems(manifest, engines, "engine"), std::back_inserter(found));
  return found;
}

Found part_problems(const PartRecord& part, const SplitRecord& split, const Manifest& manifest) {
  Found found;
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
Found wiring_problems(const SplitRecord& split, const Manifest& manifest) {
  Found found;
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

Found split_problems(const Manifest& manifest) {
  Found found;
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
    if (split.devices < 1 || split.streams < 1) {
      found.push_back(text(at, " is for ", split.devices, " devices of ", split.streams, " streams, wanted 1 or more"));
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
    Graphs graphs;
    for (const PartRecord& part : split.parts) {
      graphs.insert_or_assign(part.sha256, Graph{split.precision, &part.inputs});
    }
    const auto engines = pointers_to(split.engines);
    std::ranges::move(problems_of_engines(manifest, engines, "part-engine", graphs), std::back_inserter(found));
    std::ranges::copy(engines, std::back_inserter(all));
  }
  std::ranges::move(count_problems(manifest, all, "part-engine"), std::back_inserter(found));
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

std::vector<std::string> problems(const Manifest& manifest) {
  Found found = file_problems(manifest);
  std::ranges::move(network_problems("inputs", manifest.inputs), std::back_inserter(found));
  std::ranges::move(network_problems("outputs", manifest.outputs), std::back_inserter(found));
  if (found.empty()) {
    for (const auto check : {chain_problems, graph_problems, engine_problems, split_problems}) {
      std::ranges::move(check(manifest), std::back_inserter(found));
    }
  }
  std::ranges::transform(found, found.begin(), escaped);
  return found;
}

}  // namespace plainconv
