#include "tensorrt/lane.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::size_t most_shapes = 256;

std::size_t bytes_of(const Shape& shape, const TensorSpec& spec) {
  return std::accumulate(shape.begin(), shape.end(), size_of(spec.dtype),
                         [](std::size_t bytes, std::int64_t size) { return bytes * static_cast<std::size_t>(size); });
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
    : shared_(shared),
      cuda_(*shared.cuda),
      layout_(*shared.layout),
      held_(cuda_, layout_.home()),
      specs_(shared.inputs),
      programs_(layout_, held_) {
  for (const Step& step : shared.schedule.steps) {
    std::ranges::move(specs_of(step.part->outputs), std::back_inserter(specs_));
  }
}

Lane::~Lane() = default;

void Lane::acquire() {
  const auto& parts = shared_.parts;
  home_stream_ = held_.stream(layout_.home_track());
  for (std::size_t at = 0; at < parts.size(); ++at) {
    auto& size = scratch_[layout_.track(at)].second;
    size = std::max(size, parts[at].engine->scratch());
  }
  for (auto& [track, scratch] : scratch_) {
    if (scratch.second != 0) {
      scratch.first = held_.allocated(track.device, scratch.second);
    }
  }
  for (std::size_t profile = 0; profile < std::max<std::size_t>(shared_.profiles.size(), 1); ++profile) {
    contexts_.push_back(new_contexts(profile, false));
  }
  const std::size_t ends = shared_.inputs.size() + shared_.outputs.size();
  const Program program = program_of(layout_, std::vector<bool>(ends));
  const std::vector<std::size_t> sizes = largest();
  for (const Slot& slot : program.slots) {  // where the caller's tensors are in GPU memory, no others are needed
    programs_.place(slot, held_.allocated(slot.memory, std::max<std::size_t>(sizes[slot.value], 1)));
  }
  for (const std::size_t end : program.ends) {
    staged_.push_back(programs_.place_of(program.slots[end]));
  }
  call_.addresses.resize(ends);
  Sequencer& self = *this;
  const bool repeats = std::ranges::any_of(parts, [](const auto& part) { return part.engine->has_own_graphs(); });
  replay_ = std::make_unique<Replay>(cuda_, layout_.home(), home_stream_, self, why_no_captures(), repeats);
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
  held_.assume(layout_.home());
  const ShapesOfCall& shapes = shapes_of(inputs);
  std::vector<Shape> of_outputs;
  for (const Source& from : shared_.schedule.results) {
    of_outputs.push_back(shapes.shapes[layout_.value_of(from)]);
  }
  return of_outputs;
}

void Lane::run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) {
  held_.assume(layout_.home());
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
    held_.use(layout_.home());
    wait_for_end();
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
  shapes.profile = profile_for(shared_.profiles, shared_.inputs, inputs);
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

/// Parts say the shapes of what they make, in order.
std::vector<Shape> Lane::known_shapes(std::size_t profile, std::vector<Shape> inputs) {
  std::vector<Shape> known = std::move(inputs);
  for (std::size_t at = 0; at < shared_.parts.size(); ++at) {
    const PartEngine& part = shared_.parts[at];
    const auto& sources = shared_.schedule.steps[at].sources;
    Context& context = contexts_[profile][at];
    held_.use(part.device);
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
  held_.use(layout_.home());
  return known;
}

/// The most bytes that each value has in any profile.
std::vector<std::size_t> Lane::largest() {
  std::vector<std::size_t> sizes(specs_.size());
  for (std::size_t profile = 0; profile < contexts_.size(); ++profile) {
    const std::vector<Shape> shapes = known_shapes(profile, largest_of(shared_.profiles, profile, shared_.inputs));
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
  const Ready& ready = programs_.ready_for(call);
  const auto& slots = ready.program.slots;
  const auto& placed = programs_.placed();
  for (std::size_t at = 0; at < ready.program.works.size(); ++at) {
    const Work& work = ready.program.works[at];
    for (const std::size_t other : work.after) {
      cuda_.wait_for(ready.events[other], ready.streams[at]);
    }
    if (work.step) {
      const PartEngine& part = shared_.parts[*work.step];
      held_.use(part.device);
      try {
        contexts[*work.step].enqueue(ready.streams[at]);
      } catch (const EngineError& error) {
        throw part.named(error);
      }
    } else if (work.copy) {
      const auto [source, target] = *work.copy;
      cuda_.copy(placed[target], slots[target].memory, placed[source], slots[source].memory,
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

void Lane::check_capturable(const Contexts& contexts) {
  for (std::size_t at = 0; at < shared_.parts.size(); ++at) {
    const PartEngine& part = shared_.parts[at];
    held_.use(part.device);
    try {
      contexts[at].check_capturable(held_.stream(layout_.track(at)));
    } catch (const EngineError& error) {
      throw part.named(error);
    }
  }
  held_.use(layout_.home());
}

void Lane::bind(Contexts& contexts, const Call& call, const ShapesOfCall& shapes) {
  const Ready& ready = programs_.ready_for(call);
  for (std::size_t at = 0; at < shared_.parts.size(); ++at) {
    const PartEngine& part = shared_.parts[at];
    const auto& sources = shared_.schedule.steps[at].sources;
    held_.use(part.device);
    try {
      for (std::size_t i = 0; i < sources.size(); ++i) {
        contexts[at].set_shape(i, shapes.shapes[layout_.value_of(sources[i])]);
      }
      for (std::size_t i = 0; i < part.tensors.size(); ++i) {
        contexts[at].set_address(i, programs_.placed()[ready.program.bound[at][i]]);
      }
    } catch (const EngineError& error) {
      throw part.named(error);
    }
  }
}

Contexts Lane::fresh(const Call& call, const ShapesOfCall& shapes) {
  held_.forget_device();  // contexts may just have gone, each while its own device was in use
  try {
    Contexts contexts = new_contexts(shapes.profile, true);
    bind(contexts, call, shapes);
    return contexts;
  } catch (...) {
    held_.forget_device();
    throw;
  }
}

/// A context of each part, none of which has work under way.
Contexts Lane::new_contexts(std::size_t profile, bool repeats) {
  auto made = std::make_shared<Contexts>();
  try {
    for (std::size_t at = 0; at < shared_.parts.size(); ++at) {
      const PartEngine& part = shared_.parts[at];
      const Track track = layout_.track(at);
      const auto& [address, size] = scratch_.at(track);
      held_.use(part.device);
      try {
        Context& context = made->emplace_back(cuda_, part, shared_.one_at_a_time, repeats);
        if (part.profiles != 0) {
          context.use_profile(static_cast<int>(profile), held_.stream(track));
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

}  // namespace plainconv
