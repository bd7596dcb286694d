#include "tensorrt/runner.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include "text.hpp"

namespace plainconv {
namespace {

constexpr Address alignment = 256;  // bytes, of every address that TensorRT is given

std::string what_of(const PartEngine& part) {
  return part.name.empty() ? "the engine" : text("the engine of part ", part.name);
}

std::string listed_in_order(std::vector<std::string> names) {
  std::ranges::sort(names);
  return listed(names);
}

std::vector<std::string> problems_of(const Schedule& schedule, const std::vector<PartEngine>& parts,
                                     const std::vector<int>& devices, std::size_t profiles) {
  std::vector<std::string> found;
  std::vector<std::string> wanted;
  std::ranges::transform(parts, std::back_inserter(found), &PartEngine::name);
  std::ranges::transform(schedule.steps, std::back_inserter(wanted), [](const Step& step) { return step.part->name; });
  if (found != wanted) {
    return {text("they are ", found.empty() ? "none" : joined(found, ", "), ", wanted ", joined(wanted, ", "))};
  }
  const auto used = static_cast<std::size_t>(schedule.places.back().device + 1);
  if (devices.size() < used) {
    return {text("the plan uses ", used, " devices, ", devices.size(), " are given")};
  }
  std::vector<std::string> problems;
  for (std::size_t at = 0; at < parts.size(); ++at) {
    const int device = devices[static_cast<std::size_t>(schedule.places[schedule.steps[at].place].device)];
    if (parts[at].device != device) {
      problems.push_back(text(parts[at].name, " is on GPU ", parts[at].device, ", wanted GPU ", device));
    }
    if (parts[at].profiles != 0 && parts[at].profiles != profiles) {
      problems.push_back(
          text(parts[at].name, " has ", parts[at].profiles, " optimization profiles, the network ", profiles));
    }
  }
  return problems;
}

void check_names(const PartEngine& part) {
  std::vector<std::string> names = part.engine->tensors();
  std::vector<std::string> wanted;
  std::ranges::transform(part.tensors, std::back_inserter(wanted), &TensorSpec::name);
  if (!std::ranges::is_permutation(names, wanted)) {
    throw EngineError(text(what_of(part), " has tensors ", listed_in_order(names), ", its bundle says ",
                           listed_in_order(wanted), "; build it again"));
  }
}

/// The ordered pairs of devices of which the first has access to the second; the others copy by way of the host.
std::set<Way> reached(Cuda& cuda, const std::set<Way>& ways) {
  std::set<Way> found;
  for (const auto& [device, peer] : ways) {
    if (!cuda.can_reach(device, peer)) {
      continue;
    }
    cuda.use_device(device);
    try {
      cuda.reach(peer);
      found.insert({device, peer});
    } catch (const EngineError&) {  // NOLINT(bugprone-empty-catch): a GPU has so many peers and no more
    }
  }
  return found;
}

}  // namespace

TensorRTRunner::TensorRTRunner(std::shared_ptr<Cuda> cuda, const Manifest& manifest, SplitRecord split,
                               std::vector<int> devices, std::vector<PartEngine> parts, const EngineProfiles& profiles,
                               std::chrono::duration<double> timeout)
    : shared_(std::make_shared<LaneShared>()), home_(devices.at(0)) {
  const UsingDevice back(*cuda, home_);
  shared_->cuda = cuda;
  shared_->parts = std::move(parts);
  shared_->split = std::move(split);
  shared_->timeout = timeout;
  try {
    prepare(manifest, std::move(devices), profiles);
    idle_.push_back(Lane::make(*shared_));
  } catch (const LostError&) {
    keep_for_ever(std::move(shared_));
    throw;
  } catch (...) {
    shared_.reset();  // while this thread's own device is still to be used again
    throw;
  }
  made_ = 1;
}

void TensorRTRunner::prepare(const Manifest& manifest, std::vector<int> devices, const EngineProfiles& profiles) {
  shared_->schedule = schedule_of(shared_->split, manifest);
  const auto problems = problems_of(shared_->schedule, shared_->parts, devices, profiles.size());
  if (!problems.empty()) {
    throw EngineError(text("the engines are not those of the parts: ", joined(problems, "; "), "; build them again"));
  }
  for (std::size_t at = 0; at < shared_->parts.size(); ++at) {
    const PartRecord& record = *shared_->schedule.steps[at].part;
    auto& tensors = shared_->parts[at].tensors;
    tensors = specs_of(record.inputs);
    std::ranges::move(specs_of(record.outputs), std::back_inserter(tensors));
    check_names(shared_->parts[at]);
  }
  shared_->inputs = specs_of(manifest.inputs);
  shared_->outputs = specs_of(manifest.outputs);
  for (const auto& covered : profiles) {
    shared_->profiles.push_back(profile_of(covered, shared_->inputs));
  }
  for (const int device : devices) {
    if (!shared_->probes.contains(device)) {
      shared_->cuda->use_device(device);
      shared_->probes.emplace(device,
                              Handle(*shared_->cuda, device, shared_->cuda->create_stream(), &Cuda::destroy_stream));
    }
  }
  shared_->layout.emplace(shared_->schedule, std::move(devices), shared_->inputs.size());
  shared_->layout->let_reach_only(reached(*shared_->cuda, shared_->layout->ways()));
  shared_->cuda->use_device(home_);
}

TensorRTRunner::~TensorRTRunner() {
  try {
    const auto cuda = shared_->cuda;  // it may be the last to hold it
    const UsingDevice back(*cuda, home_);
    const auto patience = lost_.empty() ? shared_->timeout : std::chrono::duration<double>(0);
    std::ranges::move(shared_->given_up, std::back_inserter(idle_));
    shared_->given_up.clear();
    if (!std::ranges::all_of(idle_, [&](const auto& lane) { return lane->ended(patience); })) {
      keep_for_ever(shared_);
      for (auto& lane : idle_) {
        keep_for_ever(std::shared_ptr<Lane>(std::move(lane)));
      }
    }
    idle_.clear();
    for (const PartEngine& part : shared_->parts) {
      if (lost_.empty()) {
        cuda->use_device(part.device);
        part.engine->save();
      }
    }
    shared_.reset();
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): nobody is there to hear it
  }
}

void TensorRTRunner::lose(const std::string& why) {
  const std::scoped_lock lock(mutex_);
  if (lost_.empty()) {
    lost_ = text("the runner is lost: ", why);
  }
  is_lost_ = true;
}

/// Which GPU fails, whatever is asked of it; empty where none does.
std::string TensorRTRunner::why_lost() const {
  for (const auto& [device, stream] : shared_->probes) {
    try {
      (void)shared_->cuda->idle(stream.value());
    } catch (const EngineError& error) {
      return text("GPU ", device, " failed (", error.what(), "); load the bundle again, in a new process");
    }
  }
  return "";
}

template <class Act>
void TensorRTRunner::on_lane(const Act& act) {
  std::unique_ptr<Lane> lane;
  {
    const std::scoped_lock lock(mutex_);
    if (!lost_.empty()) {
      throw EngineError(lost_);
    }
    if (!idle_.empty()) {
      lane = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  const auto give_back = [&]() noexcept {
    const std::scoped_lock lock(mutex_);
    if (lane != nullptr) {
      idle_.push_back(std::move(lane));
    }
  };
  try {
    const UsingDevice back(*shared_->cuda, home_);
    if (lane == nullptr) {
      lane = Lane::make(*shared_);
      const std::scoped_lock lock(mutex_);
      idle_.reserve(++made_);  // so that none that is given back needs memory
    }
    act(*lane);
  } catch (const LostError& error) {
    give_back();
    lose(error.what());
    throw EngineError(error.what());
  } catch (const EngineError&) {
    give_back();
    if (const std::string why = why_lost(); !why.empty()) {
      lose(why);
      throw EngineError(why);
    }
    throw;
  } catch (...) {
    give_back();
    throw;
  }
  give_back();
}

void TensorRTRunner::check(std::string_view role, const TensorSpec& spec, const std::byte* data, Memory memory) {
  if (memory == Memory::host) {
    return;
  }
  const auto address = reinterpret_cast<Address>(data);  // NOLINT(*-reinterpret-cast)
  const auto device = shared_->cuda->device_of(address);
  if (!device) {
    throw EngineError(text(role, " ", spec.name, " is not in GPU memory, as its Memory says; give it as Memory::host"));
  }
  if (*device != home_) {
    throw EngineError(
        text(role, " ", spec.name, " is on GPU ", *device, ", the engine on GPU ", home_, "; copy it there first"));
  }
  if (address % alignment != 0) {
    throw EngineError(text(role, " ", spec.name, " begins at an address that is no multiple of ", alignment,
                           ", as the engine wants; give a copy"));
  }
}

void TensorRTRunner::run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) {
  on_lane([&](Lane& lane) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      check("input", shared_->inputs[i], inputs[i].bytes.data(), inputs[i].memory);
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      check("output", shared_->outputs[i], outputs[i].bytes.data(), outputs[i].memory);
    }
    lane.run(inputs, outputs);
  });
}

std::vector<Array> TensorRTRunner::run_to_arrays(std::span<const ConstTensor> inputs) {
  std::vector<Array> arrays;
  on_lane([&](Lane& lane) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      check("input", shared_->inputs[i], inputs[i].bytes.data(), inputs[i].memory);
    }
    std::vector<Tensor> outputs;
    const auto shapes = lane.shapes_of_outputs(inputs);
    arrays.reserve(shapes.size());
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const DType dtype = shared_->outputs[i].dtype;
      const auto bytes = std::accumulate(shapes[i].begin(), shapes[i].end(), size_of(dtype), std::multiplies<>());
      Array& array = arrays.emplace_back(Array{dtype, shapes[i], std::vector<std::byte>(bytes)});
      outputs.push_back({dtype, array.shape, array.bytes});
    }
    lane.run(inputs, outputs);
  });
  return arrays;
}

std::string TensorRTRunner::why_not_captured() {
  const std::scoped_lock lock(mutex_);
  const auto found = std::ranges::find_if(idle_, [](const auto& lane) { return !lane->why_not_captured().empty(); });
  return found == idle_.end() ? "" : (*found)->why_not_captured();
}

std::size_t TensorRTRunner::lanes() {
  const std::scoped_lock lock(mutex_);
  return made_;
}

SplitRecord whole_of(const Manifest& manifest, const std::string& precision) {
  SplitRecord split;
  split.precision = precision;
  split.devices = split.streams = 1;
  PartRecord part;
  part.inputs = manifest.inputs;
  part.outputs = manifest.outputs;
  for (const TensorRecord& input : manifest.inputs) {
    part.sources.emplace(input.name, std::nullopt);
  }
  for (const TensorRecord& output : manifest.outputs) {
    split.results.emplace(output.name, part.name);
  }
  split.parts.push_back(std::move(part));
  return split;
}

}  // namespace plainconv
