// Calls that come again, as CUDA graphs: captured once, then replayed, each with execution contexts of its own.
#pragma once

#include <array>
#include <list>
#include <string>
#include <vector>

#include "tensorrt/context.hpp"

namespace plainconv {

/// What is enqueued: the network on inputs of these shapes, one after the other, with the caller's tensors at these
/// addresses, inputs first, 0 for those on the host. Equal calls are the same work.
struct Call {
  std::vector<std::int64_t> sizes;
  std::vector<Address> addresses;

  bool operator==(const Call&) const = default;
};

/// What the input shapes of a call decide: its profile, and the shape and the bytes of each value.
struct ShapesOfCall {
  std::size_t profile = 0;
  std::vector<Shape> shapes;
  std::vector<std::size_t> bytes;
};

/// Of each part one.
using Contexts = std::vector<Context>;

/// What a lane does for `Replay`.
class Sequencer {
 public:
  Sequencer() = default;
  Sequencer(const Sequencer&) = delete;
  Sequencer& operator=(const Sequencer&) = delete;
  Sequencer(Sequencer&&) = delete;
  Sequencer& operator=(Sequencer&&) = delete;
  virtual ~Sequencer() = default;

  /// New contexts, bound to a call.
  [[nodiscard]] virtual Contexts fresh(const Call& call, const ShapesOfCall& shapes) = 0;
  /// Enqueue a call on contexts that are bound to it. What is captured begins on the stream, and has ended there.
  virtual void sequence(Contexts& contexts, const Call& call, const ShapesOfCall& shapes, bool captured) = 0;
  /// Throws EngineError where one of the contexts cannot be captured now.
  virtual void check_capturable(const Contexts& contexts) = 0;
};

/// Enqueues calls by the fastest way there is. For one thread at a time.
///
/// A call that comes for the first time runs on contexts that take any shape. For one that came before among the last
/// few, contexts are made and run once as they are; then that is captured, and from then on replayed. The contexts of a
/// graph are never touched again, as TensorRT asks. The plans not used for longest make room for new ones.
class Replay {
 public:
  /// `why_not` says why nothing is to be captured, empty where all may; with `repeats` calls that come again have
  /// contexts of their own all the same. `device` is that of the stream.
  Replay(Cuda& cuda, int device, Address stream, Sequencer& sequencer, std::string why_not, bool repeats);

  /// Enqueue a call by its plan. False where it has none, and is to run on any contexts.
  [[nodiscard]] bool enqueue(const Call& call, const ShapesOfCall& shapes);
  /// Why calls are not replayed any more; empty where they are.
  [[nodiscard]] const std::string& why_not() const noexcept { return why_not_; }
  /// Whether what was enqueued last is a graph.
  [[nodiscard]] bool launched() const noexcept { return launched_; }

 private:
  struct Plan {
    Call call;
    Contexts contexts;
    bool ran = false;
    Handle graph = {};
  };

  [[nodiscard]] bool was_seen(const Call& call);
  [[nodiscard]] bool add_plan(const Call& call, const ShapesOfCall& shapes);
  [[nodiscard]] Handle captured(Plan& plan, const ShapesOfCall& shapes);

  static constexpr std::size_t most_plans = 16;

  Cuda& cuda_;
  int device_;
  Address stream_;
  Sequencer& sequencer_;
  std::string why_not_;
  bool repeats_;
  bool launched_ = false;
  int failures_ = 0;
  std::list<Plan> plans_;  // the one used last first
  std::array<Call, most_plans> seen_;
  std::size_t next_ = 0;
};

}  // namespace plainconv
