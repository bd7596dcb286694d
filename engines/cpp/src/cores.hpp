// Which processor cores each place of a split network runs on, and how a thread is bound to them.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "schedule.hpp"

namespace plainconv {

/// Numbers of processors as the operating system counts them, in order.
using Cores = std::vector<int>;

/// Those that the calling thread may run on; all there are, where the system does not say.
[[nodiscard]] Cores usable_cores();

/// `cores` in `hands` runs of neighbours, one longer than another by at most 1; too few cores are shared.
[[nodiscard]] std::vector<Cores> dealt(const Cores& cores, std::size_t hands);

/// The cores of each place: `groups` says for each device of the plan which group of the cores it is.
///
/// There are as many groups as numbers in `groups`, dealt in order. The places of one device divide its group; devices
/// of the same group share it.
[[nodiscard]] std::vector<Cores> cores_of_places(std::span<const Place> places, std::span<const int> groups,
                                                 const Cores& cores);

/// Let the calling thread, and those that it starts, run on `cores` only. Gives whether the system does.
bool bind(const Cores& cores);

}  // namespace plainconv
