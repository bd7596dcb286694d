#include "split_choice.hpp"

#include <utility>

#include "text.hpp"

namespace plainconv {

std::vector<const SplitRecord*> splits_for(const Bundle& bundle, const Options& options) {
  const bool any = options.precision == "auto";
  std::vector<const SplitRecord*> found;
  for (const SplitRecord& split : bundle.manifest.splits) {
    if (any || split.precision == options.precision) {
      found.push_back(&split);
    }
  }
  if (found.empty()) {
    throw EngineError(text(shown_path(bundle.folder), " holds no ", any ? "" : options.precision + " ",
                           "split; make one with `exporter split`"));
  }
  if (options.device != 0) {
    throw EngineError(text("device ", options.device, " is given beside devices; give one of them"));
  }
  return found;
}

std::vector<int> devices_for(const SplitRecord& split, const Options& options) {
  if (std::cmp_less(options.devices.size(), split.devices)) {
    throw EngineError(text(options.devices.size(), " devices are given, the ", split.precision, " split is for ",
                           split.devices, "; give as many (one may stand for several), or split it for fewer"));
  }
  return {options.devices.begin(), options.devices.begin() + static_cast<std::ptrdiff_t>(split.devices)};
}

}  // namespace plainconv
