#include "tensorrt/replay.hpp"

#include <algorithm>

namespace plainconv {
namespace {

constexpr int most_failures = 3;

}  // namespace

Replay::Replay(Cuda& cuda, int device, Address stream, Sequencer& sequencer, std::string why_not, bool repeats)
    : cuda_(cuda),
      device_(device),
      stream_(stream),
      sequencer_(sequencer),
      why_not_(std::move(why_not)),
      repeats_(repeats) {}

bool Replay::enqueue(const Call& call, const ShapesOfCall& shapes) {
  launched_ = false;
  const auto found = std::ranges::find(plans_, call, &Plan::call);
  if (found != plans_.end()) {
    plans_.splice(plans_.begin(), plans_, found);
  } else if ((!why_not_.empty() && !repeats_) || !was_seen(call) || !add_plan(call, shapes)) {
    return false;
  }
  Plan& plan = plans_.front();
  if (plan.ran && plan.graph.value() == 0 && why_not_.empty()) {
    plan.graph = captured(plan, shapes);
  }
  if (plan.graph.value() != 0) {
    launched_ = true;
    cuda_.launch(plan.graph.value(), stream_);
  } else {
    sequencer_.sequence(plan.contexts, call, shapes, false);
    plan.ran = true;
  }
  return true;
}

bool Replay::was_seen(const Call& call) {
  if (std::ranges::find(seen_, call) != seen_.end()) {
    return true;
  }
  seen_.at(next_) = call;
  next_ = (next_ + 1) % seen_.size();
  return false;
}

bool Replay::add_plan(const Call& call, const ShapesOfCall& shapes) {
  if (plans_.size() == most_plans) {
    plans_.pop_back();
  }
  try {
    plans_.push_front({.call = call, .contexts = sequencer_.fresh(call, shapes)});
  } catch (const LostError&) {
    throw;
  } catch (const EngineError& error) {  // above all for want of memory, without which calls run too
    why_not_ = error.what();
    repeats_ = false;
    return false;
  }
  return true;
}

Handle Replay::captured(Plan& plan, const ShapesOfCall& shapes) {
  try {
    sequencer_.check_capturable(plan.contexts);
    cuda_.begin_capture(stream_);
    try {
      sequencer_.sequence(plan.contexts, plan.call, shapes, true);
    } catch (...) {
      try {
        cuda_.destroy_graph(cuda_.end_capture(stream_));
      } catch (const EngineError&) {  // NOLINT(bugprone-empty-catch): the first error says what is wrong
      }
      throw;
    }
    return {cuda_, device_, cuda_.end_capture(stream_), &Cuda::destroy_graph};
  } catch (const EngineError& error) {
    if (++failures_ == most_failures) {  // what others do on the device breaks into one capture, not into every one
      why_not_ = error.what();
    }
    return {};
  }
}

}  // namespace plainconv
