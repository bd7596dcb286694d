#include "tensorrt/loading.hpp"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "split_choice.hpp"
#include "tensorrt/kernel_cache.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

/// Engines on their devices, one after the other, and what could be better about them.
class Loading {
 public:
  Loading(const Bundle& bundle, const Options& options, const Here& here, const EngineRuntime& runtime, int home)
      : bundle_(bundle),
        options_(options),
        here_(here),
        runtime_(runtime),
        cuda_(runtime.cuda()),
        back_(*cuda_, home) {}

  /// Reads and loads an engine while its device is in use.
  void add(const EngineRecord& record, const std::string& part, int device) {
    const std::string bytes = bundle_.read(record.file);
    const Gpu gpu = here_.gpu(device);
    const EngineUse use{.name = record.file,
                        .fixed = record.profiles.empty(),
                        .eager = options_.eager_kernels,
                        .kernels = kernel_file(record.sha256, text(gpu.name, " ", gpu.target), here_.version),
                        .warn = options_.warn};
    cuda_->use_device(device);
    parts_.push_back({.name = part,
                      .device = device,
                      .profiles = record.profiles.size(),
                      .tensors = {},
                      .engine = OnDevice<Engine>(runtime_.engine(bytes, use).release(), {cuda_.get(), device})});
    if (const auto note = parts_.back().engine->note(); !note.empty()) {
      notes_.push_back(text(record.file, ": ", note));
    }
  }

  [[nodiscard]] Loaded runner(SplitRecord split, std::vector<int> devices, const EngineProfiles& profiles) {
    cuda_->use_device(devices[0]);
    const std::string precision = split.precision;
    auto made = std::make_unique<TensorRTRunner>(cuda_, bundle_.manifest, std::move(split), std::move(devices),
                                                 std::move(parts_), profiles, options_.timeout);
    for (const std::string& note : notes_) {
      if (options_.warn) {
        options_.warn(note);
      }
    }
    return {std::move(made), precision};
  }

 private:
  const Bundle& bundle_;
  const Options& options_;
  const Here& here_;
  const EngineRuntime& runtime_;
  std::shared_ptr<Cuda> cuda_;
  UsingDevice back_;
  std::vector<PartEngine> parts_;
  std::vector<std::string> notes_;
};

std::string without(std::string_view words, const std::string& before) {
  return std::string(words.starts_with(before) ? words.substr(before.size()) : words);
}

std::optional<Loaded> load_whole(const Bundle& bundle, const Options& options, const Here& here,
                                 const EngineRuntime& runtime, Reasons& reasons) {
  Reasons alike;  // for other GPUs, no faster than what comes after them
  std::optional<Speed> speed;
  for (const EngineRecord* record : engines_for(bundle, options)) {
    if (speed != speed_of(*record)) {
      speed = speed_of(*record);
      reasons.merge(alike);
    }
    if (const auto reason = why_not_run(*record, options.device, here)) {
      alike.add(*reason, record->file);
      continue;
    }
    try {
      Loading loading(bundle, options, here, runtime, options.device);
      loading.add(*record, "", options.device);
      Loaded loaded = loading.runner(whole_of(bundle.manifest, record->precision), {options.device}, record->profiles);
      reasons.say(options.warn, record->file);
      return loaded;
    } catch (const EngineError& error) {
      reasons.add(without(error.what(), text(record->file, " cannot run here: ")), record->file);
    }
  }
  reasons.merge(alike);
  return std::nullopt;
}

std::optional<std::string> why_not_run(const SplitEngines& set, const std::vector<int>& devices, const Here& here) {
  for (const int number : std::set<int>(devices.begin(), devices.end())) {
    for (const EngineRecord* record : set.engines) {
      if (auto reason = why_not_run(*record, number, here)) {
        return reason;
      }
    }
  }
  return std::nullopt;
}

std::optional<Loaded> load_parts(const Bundle& bundle, const Options& options, const Here& here,
                                 const EngineRuntime& runtime, Reasons& reasons) {
  for (const SplitEngines& set : sets_for(bundle, options)) {
    const std::vector<int> devices = devices_for(*set.split, options);
    const std::string what = text("the ", set.split->precision, " parts on ", set.engines[0]->backend);
    auto reason = why_not_run(set, devices, here);
    if (!reason) {
      try {
        Loading loading(bundle, options, here, runtime, devices[0]);
        for (std::size_t at = 0; at < set.split->parts.size(); ++at) {
          const PartRecord& part = set.split->parts[at];
          loading.add(*set.engines[at], part.name, devices[static_cast<std::size_t>(part.device)]);
        }
        Loaded loaded = loading.runner(*set.split, devices, profiles_of(set));
        reasons.say(options.warn, what);
        return loaded;
      } catch (const EngineError& error) {
        reason = error.what();
      }
    }
    reasons.add(*reason, what);
  }
  return std::nullopt;
}

}  // namespace

std::optional<Loaded> load_engines(const Bundle& bundle, const Options& options, const Here& here,
                                   const EngineRuntime& runtime, Reasons& reasons) {
  return options.devices.empty() ? load_whole(bundle, options, here, runtime, reasons)
                                 : load_parts(bundle, options, here, runtime, reasons);
}

}  // namespace plainconv
