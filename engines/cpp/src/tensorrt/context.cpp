#include "tensorrt/context.hpp"

#include <algorithm>

#include "text.hpp"

namespace plainconv {

EngineError PartEngine::named(const EngineError& error) const {
  return name.empty() ? error : EngineError(text("part ", name, " on GPU ", device, ": ", error.what()));
}

Context::Context(Cuda& cuda, const PartEngine& part, std::mutex& one_at_a_time, bool repeats)
    : part_(&part), shapes_(part.tensors.size()), addresses_(part.tensors.size()) {
  const std::scoped_lock lock(one_at_a_time);
  context_ = OnDevice<ExecutionContext>(part.engine->new_context(repeats).release(), {&cuda, part.device});
  if (context_ == nullptr) {
    throw EngineError("the engine gives no execution context, likely for want of GPU memory; free some");
  }
}

void Context::use_profile(int profile, Address stream) {
  if (!context_->use_profile(profile, stream)) {
    throw EngineError(text("the engine has no optimization profile ", profile, "; build it again"));
  }
}

void Context::use_scratch(Address address, std::size_t size) { context_->use_scratch(address, size); }

void Context::set_shape(std::size_t tensor, const Shape& shape) {
  Shape& known = shapes_[tensor];
  if (known != shape || shape.empty()) {
    known.clear();
    const std::string& name = part_->tensors[tensor].name;
    if (!context_->set_shape(name, shape)) {
      throw EngineError(
          text("the engine does not take ", name, " of shape ", shown(shape), "; build it for that shape"));
    }
    known = shape;
  }
}

void Context::set_address(std::size_t tensor, Address address) {
  Address& known = addresses_[tensor];
  if (known != address) {
    known = 0;
    const std::string& name = part_->tensors[tensor].name;
    if (!context_->set_address(name, address)) {
      throw EngineError(text("the engine takes no buffer for ", name, "; build it again"));
    }
    known = address;
  }
}

Shape Context::shape_of(std::size_t tensor) const {
  const std::string& name = part_->tensors[tensor].name;
  Shape shape = context_->shape_of(name);
  if (std::ranges::any_of(shape, [](std::int64_t size) { return size < 0; })) {
    throw EngineError(
        text("the shape of ", name, " depends on the data (", shown(shape), "), which this runner cannot run"));
  }
  return shape;
}

void Context::check_capturable(Address stream) const {
  if (!context_->is_capturable(stream)) {
    throw EngineError("the engine cannot be captured as a CUDA graph, says the runtime");
  }
}

void Context::enqueue(Address stream) {
  if (!context_->enqueue(stream)) {
    throw EngineError("the engine did not run (enqueueV3 failed); build it again on this machine");
  }
}

}  // namespace plainconv
