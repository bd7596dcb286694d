#include "tensorrt/choice.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::array<std::string_view, 9> fastest_first = {"fp8+fp16", "fp8+bf16", "fp8",  "int8+fp16", "int8+bf16",
                                                           "int8",     "fp16",     "bf16", "fp32"};

std::size_t rank_of(const EngineRecord& record) {
  return static_cast<std::size_t>(std::ranges::find(fastest_first, record.precision) - fastest_first.begin());
}

bool is_wanted(const std::string& wanted, const std::string& found) { return wanted == "auto" || wanted == found; }

/// What engines that were built alike have in common.
auto build_of(const EngineRecord& record) {
  return std::tie(record.backend_version, record.device, record.targets, record.tf32, record.options);
}

/// The engines of a split that were built alike, one a part in their order; none where a part lacks its own.
std::vector<SplitEngines> sets_of_engines(const SplitRecord& split, const std::string& backend) {
  std::vector<const EngineRecord*> firsts;
  for (const EngineRecord& record : split.engines) {
    const auto alike = [&](const EngineRecord* other) { return build_of(*other) == build_of(record); };
    if (record.backend == backend && std::ranges::none_of(firsts, alike)) {
      firsts.push_back(&record);
    }
  }
  std::vector<SplitEngines> sets;
  for (const EngineRecord* first : firsts) {
    SplitEngines set{.split = &split, .engines = {}};
    for (const PartRecord& part : split.parts) {
      const EngineRecord* found = nullptr;  // the last, where there are several
      for (const EngineRecord& record : split.engines) {
        const bool is_of_part = record.backend == backend && record.onnx_sha256 == part.sha256;
        found = is_of_part && build_of(record) == build_of(*first) ? &record : found;
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

const EngineRecord& engine_for(const Bundle& bundle, const std::string& precision, int number, const Here& here) {
  std::vector<const EngineRecord*> records;
  for (const EngineRecord& record : bundle.manifest.engines) {
    if (record.backend == here.backend && is_wanted(precision, record.precision)) {
      records.push_back(&record);
    }
  }
  std::ranges::stable_sort(records, {}, [](const EngineRecord* record) { return rank_of(*record); });
  std::optional<std::string> first;
  for (const EngineRecord* record : records) {
    const auto reason = why_not_run(*record, number, here);
    if (!reason) {
      return *record;
    }
    first = first ? first : text(record->file, " cannot run here: ", *reason);
  }
  if (first) {
    throw CannotRunError(*first);
  }
  const bool any = precision == "auto";
  throw CannotRunError(text(shown_path(bundle.folder), " holds no ", here.backend, any ? "" : " ", any ? "" : precision,
                            " engine; build one with `exporter build --engine ", here.backend,
                            any ? "" : " --precision ", any ? "" : precision, "`"));
}

SplitEngines engines_for(const Bundle& bundle, const std::string& precision, std::span<const int> numbers,
                         const Here& here) {
  std::vector<SplitEngines> sets;
  for (const SplitRecord& split : bundle.manifest.splits) {
    if (is_wanted(precision, split.precision)) {
      std::ranges::move(sets_of_engines(split, here.backend), std::back_inserter(sets));
    }
  }
  std::ranges::stable_sort(sets, {}, [](const SplitEngines& set) { return rank_of(*set.engines[0]); });
  std::optional<std::string> first;
  for (const SplitEngines& set : sets) {
    const auto devices = std::min(numbers.size(), static_cast<std::size_t>(set.split->devices));
    const std::set<int> used(numbers.begin(), numbers.begin() + static_cast<std::ptrdiff_t>(devices));
    std::optional<std::string> reason;
    for (const int number : used) {
      for (const EngineRecord* record : set.engines) {
        reason = reason ? reason : why_not_run(*record, number, here);
      }
    }
    if (!reason) {
      return set;
    }
    first =
        first ? first : text("the ", set.split->precision, " parts cannot run on ", here.backend, " here: ", *reason);
  }
  throw CannotRunError(first ? *first
                             : text(shown_path(bundle.folder), " holds no ", here.backend,
                                    " engines of its parts; build them with `exporter build`"));
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
