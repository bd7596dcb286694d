#include "tensorrt/lane.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::size_t most_shapes = 256;
std::size_t bytes_of(const Shape& shape, const TensorSpec& spec) {
  return std::accumulate(shape.begin(), shape.end(), size_of(spec.dtype),
                         [](std::size_t bytes, std::int64_t size) { return bytes * static_cast<std::size_t>(size); });
}

Shape fixed_shape(const TensorSpec& spec) {
  Shape shape;
  for (const Axis& axis : spec.shape) {
    const auto* size = std::get_if<std::int64_t>(&axis);
    if (size == nullptr) {
      throw EngineError(
          text(text_of(spec), " has a free axis and the engine no optimization profile for it; build it again"));
    }
    shape.push_back(*size);
  }
  return shape;
}

bool covers(const ShapeRange& range, std::span<const std::int64_t> shape) {
  return std::ranges::equal(range.min, shape, std::ranges::less_equal{}) &&
         std::ranges::equal(shape, range.max, std::ranges::less_equal{});
}

}  // namespace

LaneShared::~LaneShared() = default;

std::unique_ptr<Lane> Lane::make(LaneShared& shared) {
  std::unique_ptr<Lane> lane(new Lane(shared));  // NOLINT(cppcoreguidelines-owning-memory): the constructor is private
  try {
    lane->acquire();
  } catch (const LostError&) {
    const std::scoped_lock lock(shared.mutex);
    shared.given_up.push_back(std::move(lane));
    throw;
  }
  return lane;
}

Lane::Lane(LaneShared& shared)
    : shared_(shared), cuda_(*shared.cuda), layout_(*shared.layout), used_(layout_.home()), specs_(shared.inputs) {
  for (const Step& step : shared.schedule.steps) {
    std::ranges::move(specs_of(step.part->outputs), std::back_inserter(specs_));
  }
}

Lane::~Lane() = default;

void Lane::acquire() {
  const auto& parts = shared_.parts;
  home_stream_ = stream(layout_.home_track());
  for (std::size_t at = 0; at < parts.size(); ++at) {
    auto& size = scratch_[layout_.track(at)].second;
    size = std::max(size, parts[at].engine->scratch());
  }
  for (auto& [track, scratch] : scratch_) {
    if (scratch.second != 0) {
      scratch.first = allocated(track.device, scratch.second);
    }
  }
  for (std::size_t profile = 0; profile < std::max<std::size_t>(shared_.profiles.size(), 1); ++profile) {
    contexts_.push_back(new_contexts(profile));
  }
  const std::size_t ends = shared_.inputs.size() + shared_.outputs.size();
  const Program program = program_of(layout_, std::vector<bool>(ends));
  const std::vector<std::size_t> sizes = largest();
  for (const Slot& slot : program.slots) {  // where the caller's tensors are in GPU memory, no others are needed
    addresses_[slot] = allocated(slot.memory, std::max<std::size_t>(sizes[slot.value], 1));
  }
  for (const std::size_t end : program.ends) {
    staged_.push_back(addresses_.at(program.slots[end]));
  }
  call_.addresses.resize(ends);
  on_gpu_.resize(ends);
  Sequencer& self = *this;
  replay_ = std::make_unique<Replay>(cuda_, layout_.home(), home_stream_, self, why_no_captures());
}

std::string Lane::why_no_captures() const {
  for (const PartEngine& part : shared_.parts) {
    if (const auto reason = part.engine->why_not_captured(); !reason.empty()) {
      return std::string(reason);
    }
  }
  return "";
}

std::vector<Shape> Lane::shapes_of_outputs(std::span<const ConstTensor> inputs) {
  used_ = layout_.home();
  const ShapesOfCall& shapes = shapes_of(inputs);
  std::vector<Shape> of_outputs;
  for (const Source& from : shared_.schedule.results) {
    of_outputs.push_back(shapes.shapes[layout_.value_of(from)]);
  }
  return of_outputs;
}

void Lane::run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) {
  used_ = layout_.home();
  try {
    const ShapesOfCall& shapes = shapes_of(inputs);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const Shape& wanted = shapes.shapes[layout_.value_of(shared_.schedule.results[i])];
      if (!std::ranges::equal(outputs[i].shape, wanted)) {
        throw EngineError(text("output ", shared_.outputs[i].name, " has shape ", shown(outputs[i].shape), ", wanted ",
                               shown(wanted)));
      }
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].memory == Memory::host) {
        std::memcpy(reinterpret_cast<void*>(staged_[i]),  // NOLINT(*-reinterpret-cast,performance-no-int-to-ptr)
                    inputs[i].bytes.data(), inputs[i].bytes.size());
      }
    }
    enqueue(inputs, outputs, shapes);
    use(layout_.home());
    wait({&home_stream_, 1});
  } catch (const LostError&) {
    throw;
  } catch (const std::exception& error) {
    clear_up(error.what());
    throw;
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].memory == Memory::host) {
      std::memcpy(outputs[i].bytes.data(),  // NOLINTNEXTLINE(*-reinterpret-cast,performance-no-int-to-ptr)
                  reinterpret_cast<const void*>(staged_[inputs.size() + i]), outputs[i].bytes.size());
    }
  }
}

const ShapesOfCall& Lane::shapes_of(std::span<const ConstTensor> inputs) {
  call_.sizes.clear();
  for (const ConstTensor& input : inputs) {
    call_.sizes.insert(call_.sizes.end(), input.shape.begin(), input.shape.end());
  }
  if (const auto known = shapes_.find(call_.sizes); known != shapes_.end()) {
    return known->second;
  }
  if (shapes_.size() == most_shapes) {
    shapes_.clear();
  }
  ShapesOfCall shapes;
  shapes.profile = profile_for(inputs);
  std::vector<Shape> of_inputs;
  for (const ConstTensor& input : inputs) {
    of_inputs.emplace_back(input.shape.begin(), input.shape.end());
  }
  shapes.shapes = known_shapes(shapes.profile, std::move(of_inputs));
  for (std::size_t value = 0; value < specs_.size(); ++value) {
    shapes.bytes.push_back(bytes_of(shapes.shapes[value], specs_[value]));
  }
  return shapes_.emplace(call_.sizes, std::move(shapes)).first->second;
}

std::size_t Lane::profile_for(std::span<const ConstTensor> inputs) const {
  const auto& profiles = shared_.profiles;
  for (std::size_t at = 0; at < profiles.size(); ++at) {
    bool all = true;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      all = all && (!profiles[at][i] || covers(*profiles[at][i], inputs[i].shape));
    }
    if (all) {
      return at;
    }
  }
  if (profiles.empty()) {
    return 0;
  }
  std::vector<std::string> found;
  std::vector<std::string> ranges;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (std::ranges::any_of(profiles, [&](const Profile& profile) { return profile[i].has_value(); })) {
      found.push_back(text(shared_.inputs[i].name, " ", shown(inputs[i].shape)));
    }
  }
  for (std::size_t at = 0; at < profiles.size(); ++at) {
    std::vector<std::string> each;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (const auto& range = profiles[at][i]) {
        each.push_back(text(shared_.inputs[i].name, " ", shown(range->min), " to ", shown(range->max)));
      }
    }
    ranges.push_back(text("profile ", at, ": ", joined(each, ", ")));
  }
  throw EngineError(text(joined(found, ", "), " is in no optimization profile of the engine (", joined(ranges, "; "),
                         "); split it, or build the engine for it"));
}

/// Parts say the shapes of what they make, in order.
std::vector<Shape> Lane::known_shapes(std::size_t profile, std::vector<Shape> inputs) {
  std::vector<Shape> known = std::move(inputs);
  for (std::size_t at = 0; at < shared_.parts.size(); ++at) {
    const PartEngine& part = shared_.parts[at];
    const auto& sources = shared_.schedule.steps[at].sources;
    Context& context = contexts_[profile][at];
    use(part.device);
    try {
      for (std::size_t i = 0; i < sources.size(); ++i) {
        context.set_shape(i, known[layout_.value_of(sources[i])]);
      }
      for (std::size_t i = sources.size(); i < part.tensors.size(); ++i) {
        known.push_back(context.shape_of(i));
      }
    } catch (const EngineError& error) {
      throw part.named(error);
    }
  }
  use(layout_.home());
  return known;
}

/// The most bytes that each value has in any profile.
std::vector<std::size_t> Lane::largest() {
  std::vector<std::size_t> sizes(specs_.size());
  for (std::size_t profile = 0; profile < contexts_.size(); ++profile) {
    std::vector<Shape> inputs;
    for (std::size_t i = 0; i < shared_.inputs.size(); ++i) {
      const bool is_fixed = shared_.profiles.empty() || !shared_.profiles[profile][i];
      inputs.push_back(is_fixed ? fixed_shape(shared_.inputs[i]) : shared_.profiles[profile][i]->max);
    }
    const std::vector<Shape> shapes = known_shapes(profile, std::move(inputs));
    for (std::size_t value = 0; value < sizes.size(); ++value) {
      sizes[value] = std::max(sizes[value], bytes_of(shapes[value], specs_[value]));
    }
  }
  return sizes;
}

void Lane::enqueue(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs, const ShapesOfCall& shapes) {
  const auto address = [](const auto& tensor) {  // NOLINTNEXTLINE(*-reinterpret-cast)
    return tensor.memory == Memory::host ? Address{0} : reinterpret_cast<Address>(tensor.bytes.data());
  };
  std::ranges::transform(inputs, call_.addresses.begin(), address);
  std::ranges::transform(outputs, call_.addresses.begin() + static_cast<std::ptrdiff_t>(inputs.size()), address);
  enqueued_ = nullptr;
  if (!replay_->enqueue(call_, shapes)) {
    Contexts& contexts = contexts_[shapes.profile];
    bind(contexts, call_, shapes);
    sequence(contexts, call_, shapes, false);
  }
}

/// Enqueue the program of a call. A part that refuses is named.
void Lane::sequence(Contexts& contexts, const Call& call, const ShapesOfCall& shapes, bool captured) {
  const Ready& ready = ready_for(call);
  const auto& slots = ready.program.slots;
  for (std::size_t at = 0; at < ready.program.works.size(); ++at) {
    const Work& work = ready.program.works[at];
    for (const std::size_t other : work.after) {
      cuda_.wait_for(ready.events[other], ready.streams[at]);
    }
    if (work.step) {
      const PartEngine& part = shared_.parts[*work.step];
      use(part.device);
      try {
        contexts[*work.step].enqueue(ready.streams[at]);
      } catch (const EngineError& error) {
        throw part.named(error);
      }
    } else if (work.copy) {
      const auto [source, target] = *work.copy;
      cuda_.copy(placed_[target], slots[target].memory, placed_[source], slots[source].memory,
                 shapes.bytes[slots[source].value], ready.streams[at]);
    }
    if (work.marked) {
      cuda_.mark(ready.events[at], ready.streams[at]);
    }
    if (!captured) {
      enqueued_ = &ready;
      count_ = at + 1;
    }
  }
}

const Lane::Ready& Lane::ready_for(const Call& call) {
  for (std::size_t i = 0; i < on_gpu_.size(); ++i) {
    on_gpu_[i] = call.addresses[i] != 0;
  }
  auto found = ready_.find(on_gpu_);
  if (found == ready_.end()) {
    found = ready_.emplace(on_gpu_, new_ready(on_gpu_)).first;
  }
  const Ready& ready = found->second;
  placed_.assign(ready.addresses.begin(), ready.addresses.end());
  for (std::size_t i = 0; i < call.addresses.size(); ++i) {
    if (call.addresses[i] != 0) {
      placed_[ready.program.ends[i]] = call.addresses[i];
    }
  }
  return ready;
}

Lane::Ready Lane::new_ready(const std::vector<bool>& on_gpu) {
  Ready ready{.program = program_of(layout_, on_gpu), .streams = {}, .events = {}, .addresses = {}};
  std::map<Track, std::size_t> counts;
  for (const Work& work : ready.program.works) {
    ready.streams.push_back(stream(work.track));
    ready.events.push_back(work.marked ? event(work.track, ++counts[work.track]) : 0);
  }
  for (const Slot& slot : ready.program.slots) {
    const auto found = addresses_.find(slot);
    ready.addresses.push_back(found == addresses_.end() ? 0 : found->second);
  }
  use(layout_.home());
  return ready;
}

void Lane::bind(Contexts& contexts, const Call& call, const ShapesOfCall& shapes) {
  const Ready& ready = ready_for(call);
  for (std::size_t at = 0; at < shared_.parts.size(); ++at) {
    const PartEngine& part = shared_.parts[at];
    const auto& sources = shared_.schedule.steps[at].sources;
    use(part.device);
    try {
      for (std::size_t i = 0; i < sources.size(); ++i) {
        contexts[at].set_shape(i, shapes.shapes[layout_.value_of(sources[i])]);
      }
      for (std::size_t i = 0; i < part.tensors.size(); ++i) {
        contexts[at].set_address(i, placed_[ready.program.bound[at][i]]);
      }
    } catch (const EngineError& error) {
      throw part.named(error);
    }
  }
}

Contexts Lane::fresh(const Call& call, const ShapesOfCall& shapes) {
  used_.reset();  // contexts may just have gone, each while its own device was in use
  try {
    Contexts contexts = new_contexts(shapes.profile);
    bind(contexts, call, shapes);
    return contexts;
  } catch (...) {
    used_.reset();
    throw;
  }
}

/// A context of each part, none of which has work under way.
Contexts Lane::new_contexts(std::size_t profile) {
  auto made = std::make_shared<Contexts>();
  try {
    for (std::size_t at = 0; at < shared_.parts.size(); ++at) {
      const PartEngine& part = shared_.parts[at];
      const Track track = layout_.track(at);
      const auto& [address, size] = scratch_.at(track);
      use(part.device);
      try {
        Context& context = made->emplace_back(cuda_, part, shared_.one_at_a_time);
        if (part.profiles != 0) {
          context.use_profile(static_cast<int>(profile), stream(track));
        }
        if (part.engine->scratch() != 0) {
          context.use_scratch(address, size);
        }
      } catch (const EngineError& error) {
        throw part.named(error);
      }
    }
    wait_for_all();
  } catch (const LostError&) {
    keep_for_ever(made);
    throw;
  } catch (const std::exception& error) {
    try {
      clear_up(error.what());
    } catch (const LostError&) {
      keep_for_ever(made);
      throw;
    }
    throw;
  }
  return std::move(*made);
}

void Lane::use(int device) {
  if (used_ != device) {
    used_.reset();
    cuda_.use_device(device);
    used_ = device;
  }
}

Address Lane::allocated(int memory, std::size_t size) {
  memory_.reserve(memory_.size() + 1);
  if (memory == host_memory) {
    memory_.emplace_back(cuda_, memory, cuda_.allocate_host(size), &Cuda::free_host);
  } else {
    use(memory);
    memory_.emplace_back(cuda_, memory, cuda_.allocate(size), &Cuda::free);
  }
  return memory_.back().value();
}

Address Lane::stream(const Track& track) {
  const auto found = std::ranges::find(streams_, track, &std::pair<Track, Handle>::first);
  if (found != streams_.end()) {
    return found->second.value();
  }
  use(track.device);
  streams_.reserve(streams_.size() + 1);
  stream_list_.reserve(stream_list_.size() + 1);
  streams_.emplace_back(track, Handle(cuda_, track.device, cuda_.create_stream(), &Cuda::destroy_stream));
  return stream_list_.emplace_back(streams_.back().second.value());
}

Address Lane::event(const Track& track, std::size_t count) {
  Handle& event = events_[{track, count}];
  if (event.value() == 0) {
    use(track.device);
    event = Handle(cuda_, track.device, cuda_.create_event(), &Cuda::destroy_event);
  }
  return event.value();
}

}  // namespace plainconv
