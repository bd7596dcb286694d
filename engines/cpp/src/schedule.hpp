// What the parts of a split network wait for. Pure: every runtime runs by this.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "bundle/manifest.hpp"

namespace plainconv {

/// A device of the plan and a stream of it: it runs one part at a time, in the order of the split.
struct Place {
  std::int64_t device = 0;
  std::int64_t stream = 0;

  auto operator<=>(const Place&) const = default;
};

/// A value: an output of a step, or (no step) an input of the network.
struct Source {
  std::optional<std::size_t> step;
  std::size_t index = 0;
};

/// The run of one part.
struct Step {
  const PartRecord* part = nullptr;
  std::size_t place = 0;               // of Schedule::places
  std::vector<Source> sources;         // of its inputs, in order
  std::size_t waits = 0;               // how many steps it reads from
  std::vector<std::size_t> followers;  // the steps that read from it
};

/// The steps in an order in which they can run, the places that are used, and where each output of the network is from.
struct Schedule {
  std::vector<Step> steps;
  std::vector<Place> places;
  std::vector<Source> results;
};

/// The schedule of a split of an open bundle, whose names are known to fit; it refers to `split`.
[[nodiscard]] Schedule schedule_of(const SplitRecord& split, const Manifest& manifest);

}  // namespace plainconv
