#include "schedule.hpp"

#include <algorithm>
#include <set>

namespace plainconv {
namespace {

std::size_t index_of(const std::vector<TensorRecord>& specs, const std::string& name) {
  return static_cast<std::size_t>(std::ranges::find(specs, name, &TensorRecord::name) - specs.begin());
}

}  // namespace

Schedule schedule_of(const SplitRecord& split, const Manifest& manifest) {
  Schedule schedule;
  std::set<Place> used;
  for (const PartRecord& part : split.parts) {
    used.insert({part.device, part.stream});
  }
  schedule.places.assign(used.begin(), used.end());
  const auto source = [&](const std::optional<std::string>& from, const std::string& name) -> Source {
    if (!from) {
      return {std::nullopt, index_of(manifest.inputs, name)};
    }
    const auto part = std::ranges::find(split.parts, *from, &PartRecord::name);
    return {static_cast<std::size_t>(part - split.parts.begin()), index_of(part->outputs, name)};
  };
  for (const PartRecord& part : split.parts) {
    Step step;
    step.part = &part;
    step.place = static_cast<std::size_t>(std::ranges::find(schedule.places, Place{part.device, part.stream}) -
                                          schedule.places.begin());
    std::set<std::size_t> reads;
    for (const TensorRecord& spec : part.inputs) {
      step.sources.push_back(source(part.sources.at(spec.name), spec.name));
      if (step.sources.back().step) {
        reads.insert(*step.sources.back().step);
      }
    }
    step.waits = reads.size();
    for (const std::size_t read : reads) {
      schedule.steps[read].followers.push_back(schedule.steps.size());
    }
    schedule.steps.push_back(std::move(step));
  }
  for (const TensorRecord& spec : manifest.outputs) {
    schedule.results.push_back(source(split.results.at(spec.name), spec.name));
  }
  return schedule;
}

}  // namespace plainconv
