#include "tensorrt/choice.hpp"

#include <algorithm>
#include <array>
#include <tuple>

#include "split_choice.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::array<std::string_view, 9> fastest_first = {"fp8+fp16", "fp8+bf16", "fp8",  "int8+fp16", "int8+bf16",
                                                           "int8",     "fp16",     "bf16", "fp32"};

constexpr std::array<std::string_view, 2> backends_first = {"tensorrt", "tensorrt_rtx"};

std::size_t rank_in(const auto& names, const std::string& name) {
  return static_cast<std::size_t>(std::ranges::find(names, name) - names.begin());
}

bool is_wanted(const std::string& wanted, const std::string& found) { return wanted == "auto" || wanted == found; }

/// What engines that were built alike have in common.
auto build_of(const EngineRecord& record) {
  return std::tie(record.backend, record.backend_version, record.device, record.targets, record.tf32, record.options);
}

/// The engines of a split that were built alike, one a part in their order; none where a part lacks its own.
std::vector<SplitEngines> sets_of_engines(const SplitRecord& split) {
  std::vector<const EngineRecord*> firsts;
  for (const EngineRecord& record : split.engines) {
    const auto alike = [&](const EngineRecord* other) { return build_of(*other) == build_of(record); };
    if (std::ranges::none_of(firsts, alike)) {
      firsts.push_back(&record);
    }
  }
  std::vector<SplitEngines> sets;
  for (const EngineRecord* first : firsts) {
    SplitEngines set{.split = &split, .engines = {}};
    for (const PartRecord& part : split.parts) {
      const EngineRecord* found = nullptr;  // the last, where there are several
      for (const EngineRecord& record : split.engines) {
        found = record.onnx_sha256 == part.sha256 && build_of(record) == build_of(*first) ? &record : found;
      }
      if (found != nullptr) {
        set.engines.push_back(found);
      }
    }
    if (set.engines.size() == split.parts.size()) {
      sets.push_back(std::move(set));
    }
  }
  return sets;
}

}  // namespace

std::optional<std::string> why_not_run(const EngineRecord& record, int number, const Here& here) {
  Gpu gpu;
  try {
    gpu = here.gpu(number);
  } catch (const EngineError& error) {
    return error.what();
  }
  if (here.backend != record.backend) {
    return text("this library was built without ", record.backend, "; see engines/cpp/README.md on how to build it");
  }
  if (here.version != record.backend_version) {
    return text("it was built by ", record.backend, " ", record.backend_version, ", here is ", here.version,
                "; build it again with `exporter build`");
  }
  if (std::ranges::find(record.targets, gpu.target) == record.targets.end()) {
    return text("it is for ", joined(record.targets, ", "), ", the ", gpu.name, " here is ", gpu.target,
                "; build it for that");
  }
  if (record.device && *record.device != gpu.name) {
    return text("it is for an ", *record.device, ", here is an ", gpu.name, "; build it again with `exporter build`");
  }
  return std::nullopt;
}

Speed speed_of(const EngineRecord& record) {
  return {rank_in(backends_first, record.backend), rank_in(fastest_first, record.precision)};
}

std::vector<const EngineRecord*> engines_for(const Bundle& bundle, const Options& options) {
  std::vector<const EngineRecord*> records;
  for (const EngineRecord& record : bundle.manifest.engines) {
    if (is_wanted(options.backend, record.backend) && is_wanted(options.precision, record.precision)) {
      records.push_back(&record);
    }
  }
  std::ranges::stable_sort(records, {}, [](const EngineRecord* record) { return speed_of(*record); });
  return records;
}

std::vector<SplitEngines> sets_for(const Bundle& bundle, const Options& options) {
  std::vector<SplitEngines> sets;
  for (const SplitRecord* split : splits_for(bundle, options)) {
    for (SplitEngines& set : sets_of_engines(*split)) {
      if (is_wanted(options.backend, set.engines[0]->backend)) {
        sets.push_back(std::move(set));
      }
    }
  }
  std::ranges::stable_sort(sets, {}, [](const SplitEngines& set) { return speed_of(*set.engines[0]); });
  return sets;
}

std::string why_none_runs(const Bundle& bundle, const Options& options, std::string_view backend,
                          const Reasons& reasons) {
  if (const auto lines = reasons.lines(); !lines.empty()) {
    return lines.front();
  }
  if (!options.devices.empty()) {
    return text(shown_path(bundle.folder), " holds no ", backend,
                " engines of its parts; build them with `exporter build`");
  }
  const bool any = options.precision == "auto";
  return text(shown_path(bundle.folder), " holds no ", backend, any ? "" : " ", any ? "" : options.precision,
              " engine; build one with `exporter build --engine ", backend, any ? "" : " --precision ",
              any ? "" : options.precision, "`");
}

EngineProfiles profiles_of(const SplitEngines& chosen) {
  EngineProfiles profiles;
  for (std::size_t at = 0; at < chosen.engines.size(); ++at) {
    const auto& own = chosen.engines[at]->profiles;
    profiles.resize(std::max(profiles.size(), own.size()));
    for (std::size_t i = 0; i < own.size(); ++i) {
      for (const auto& covered : own[i]) {
        if (!chosen.split->parts[at].sources.at(covered.first)) {
          std::erase_if(profiles[i], [&](const auto& known) { return known.first == covered.first; });
          profiles[i].push_back(covered);
        }
      }
    }
  }
  return profiles;
}

}  // namespace plainconv
