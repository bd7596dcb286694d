// Which split of a bundle runs, and on which devices.
#pragma once

#include <vector>

#include "bundle/reader.hpp"

namespace plainconv {

/// The splits of the precision that is asked for; "auto" are all. Throws EngineError where there is none.
[[nodiscard]] std::vector<const SplitRecord*> splits_for(const Bundle& bundle, const Options& options);

/// Of the devices that are given as many as the split is for. Throws EngineError where they are too few.
[[nodiscard]] std::vector<int> devices_for(const SplitRecord& split, const Options& options);

}  // namespace plainconv
