#include "tensorrt/backend.hpp"

#include "tensorrt/choice.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

Here here() { return {.backend = std::string(tensorrt_name), .version = runtime_version()}; }

/// An engine on a device, which this thread uses afterwards.
PartEngine part_of(Cuda& cuda, const Bundle& bundle, const EngineRecord& record, std::string name, int device) {
  const std::string bytes = bundle.read(record.file);
  cuda.use_device(device);
  return {.name = std::move(name),
          .device = device,
          .profiles = record.profiles.size(),
          .tensors = {},
          .engine = OnDevice<Engine>(engine_of_bytes(bytes, record.file).release(), {&cuda, device})};
}

}  // namespace

std::unique_ptr<Runner> load_by_tensorrt(const Bundle& bundle, const std::string& precision, const Options& options) {
  const EngineRecord& record = engine_for(bundle, precision, options.device, here());
  const auto cuda = cuda_runtime();
  const UsingDevice back(*cuda, options.device);
  std::vector<PartEngine> parts;
  parts.push_back(part_of(*cuda, bundle, record, "", options.device));
  return std::make_unique<TensorRTRunner>(cuda, bundle.manifest, whole_of(bundle.manifest, precision),
                                          std::vector{options.device}, std::move(parts), record.profiles,
                                          options.timeout);
}

std::unique_ptr<Runner> load_split_by_tensorrt(const Bundle& bundle, const SplitRecord& split, const Options& options) {
  if (options.device != 0) {
    throw EngineError(text("device ", options.device, " is given beside devices; give one of them"));
  }
  const SplitEngines chosen = engines_for(bundle, split.precision, options.devices, here());
  const auto cuda = cuda_runtime();
  const UsingDevice back(*cuda, options.devices[0]);
  std::vector<PartEngine> parts;
  for (std::size_t at = 0; at < split.parts.size(); ++at) {
    const int device = options.devices[static_cast<std::size_t>(split.parts[at].device)];
    parts.push_back(part_of(*cuda, bundle, *chosen.engines[at], split.parts[at].name, device));
  }
  cuda->use_device(options.devices[0]);
  return std::make_unique<TensorRTRunner>(cuda, bundle.manifest, split, options.devices, std::move(parts),
                                          profiles_of(chosen), options.timeout);
}

std::string fastest_by_tensorrt(const Bundle& bundle, const Options& options) {
  return options.devices.empty() ? engine_for(bundle, "auto", options.device, here()).precision
                                 : engines_for(bundle, "auto", options.devices, here()).split->precision;
}

}  // namespace plainconv
