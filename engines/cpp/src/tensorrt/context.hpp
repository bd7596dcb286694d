// The engine of a part, and its execution contexts, which are told only what is new.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "tensorrt/engine.hpp"

namespace plainconv {

/// Work on a GPU that has not ended in time, or a GPU that fails: nothing can be run there any more.
class LostError : public EngineError {
 public:
  using EngineError::EngineError;
};

/// One part ready to run, or (without a name) a whole network. `profiles` counts the optimization profiles of its
/// engine, none where its shapes are fixed. `tensors` are its inputs, then its outputs.
struct PartEngine {
  std::string name;
  int device = 0;
  std::size_t profiles = 0;
  std::vector<TensorSpec> tensors;
  OnDevice<Engine> engine;

  /// An error of this part, which says so.
  [[nodiscard]] EngineError named(const EngineError& error) const;
};

/// One execution context; moved, not copied. Each call throws EngineError, in one line, where it refuses; the device of
/// its part is in use.
class Context {
 public:
  /// For a call that `repeats` or for any. `one_at_a_time`: of the threads that ask engines for contexts. Throws
  /// EngineError where there is none to have.
  Context(Cuda& cuda, const PartEngine& part, std::mutex& one_at_a_time, bool repeats);

  void use_profile(int profile, Address stream);
  void use_scratch(Address address, std::size_t size);
  /// `tensor` is a position in the part's `tensors`.
  void set_shape(std::size_t tensor, const Shape& shape);
  void set_address(std::size_t tensor, Address address);
  [[nodiscard]] Shape shape_of(std::size_t tensor) const;
  /// Throws EngineError where the runtime says that a capture of the stream would fail now.
  void check_capturable(Address stream) const;
  void enqueue(Address stream);

 private:
  const PartEngine* part_;
  OnDevice<ExecutionContext> context_;
  std::vector<Shape> shapes_;       // empty where it is not known
  std::vector<Address> addresses_;  // 0 where it is not known
};

}  // namespace plainconv
