#include "bundle/engine_rules.hpp"

#include <algorithm>
#include <iterator>

#include "bundle/chain.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

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

bool covers_inputs(const EngineRecord& engine, const EngineSource* graph) {
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

}  // namespace

std::vector<const EngineRecord*> pointers_to(const std::vector<EngineRecord>& records) {
  std::vector<const EngineRecord*> all;
  std::ranges::transform(records, std::back_inserter(all), [](const EngineRecord& record) { return &record; });
  return all;
}

Problems problems_of_engines(const Manifest& manifest, const std::vector<const EngineRecord*>& engines,
                             std::string_view step, const EngineSources& graphs) {
  Problems found;
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
    const EngineSource* graph = built_from == graphs.end() ? nullptr : &built_from->second;
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

Problems count_problems(const Manifest& manifest, const std::vector<const EngineRecord*>& engines,
                        std::string_view step) {
  const std::size_t links = links_of(manifest, step).size();
  const bool once = all_different(engines, [](const EngineRecord* engine) { return engine->file; });
  if (links == engines.size() && once) {
    return {};
  }
  return {text("the chain has ", links, " ", step, " links for ", engines.size(), " engine records")};
}

Problems engine_problems(const Manifest& manifest) {
  EngineSources graphs;
  for (const Link* link : links_of(manifest, "onnx")) {
    graphs.insert_or_assign(link->sha256, EngineSource{std::nullopt, &manifest.inputs});
  }
  for (const GraphRecord& graph : manifest.graphs) {
    graphs.insert_or_assign(graph.sha256, EngineSource{graph.precision, &manifest.inputs});
  }
  const auto engines = pointers_to(manifest.engines);
  Problems found = problems_of_engines(manifest, engines, "engine", graphs);
  std::ranges::move(count_problems(manifest, engines, "engine"), std::back_inserter(found));
  return found;
}

}  // namespace plainconv
