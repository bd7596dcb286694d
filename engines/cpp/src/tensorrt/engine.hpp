// What a runner asks of TensorRT and of TensorRT-RTX, free of their types: `runtime.cpp` has both, tests a
// double.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/cuda.hpp"

namespace plainconv {

using Shape = std::vector<std::int64_t>;

/// An IExecutionContext. What it cannot do is false. Used, and given back, while the engine's device is in use.
class ExecutionContext {
 public:
  ExecutionContext() = default;
  ExecutionContext(const ExecutionContext&) = delete;
  ExecutionContext& operator=(const ExecutionContext&) = delete;
  ExecutionContext(ExecutionContext&&) = delete;
  ExecutionContext& operator=(ExecutionContext&&) = delete;
  virtual ~ExecutionContext() = default;

  /// Enqueues work.
  [[nodiscard]] virtual bool use_profile(int profile, Address stream) = 0;
  /// Device memory to work in.
  virtual void use_scratch(Address address, std::size_t size) = 0;
  [[nodiscard]] virtual bool set_shape(const std::string& tensor, std::span<const std::int64_t> shape) = 0;
  [[nodiscard]] virtual bool set_address(const std::string& tensor, Address address) = 0;
  /// From the shapes of the inputs; below 0 what depends on the data.
  [[nodiscard]] virtual Shape shape_of(const std::string& tensor) const = 0;
  /// Whether the runtime says that what is enqueued on a stream now may be captured.
  [[nodiscard]] virtual bool is_capturable(Address stream) const = 0;
  [[nodiscard]] virtual bool enqueue(Address stream) = 0;
};

/// An ICudaEngine. Used, and given back, while the device is in use that it was loaded on, by one thread at a time.
class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  Engine(Engine&&) = delete;
  Engine& operator=(Engine&&) = delete;
  virtual ~Engine() = default;

  /// The names of its inputs and outputs.
  [[nodiscard]] virtual std::vector<std::string> tensors() const = 0;
  /// Null where it has none to give. `repeats`: it is for a call that comes again and again.
  [[nodiscard]] virtual std::unique_ptr<ExecutionContext> new_context(bool repeats) = 0;
  /// How many bytes of device memory a context must be given to work in: those that never run at the same time may
  /// share them. With 0 each has its own.
  [[nodiscard]] virtual std::size_t scratch() const = 0;
  /// Why the work of a context is not to become a CUDA graph; empty where it may.
  [[nodiscard]] virtual std::string_view why_not_captured() const = 0;
  /// Whether a context for a call that comes again makes a graph of its own of it.
  [[nodiscard]] virtual bool has_own_graphs() const { return false; }
  /// What could be better about it, as the runtime finds; empty where nothing could.
  [[nodiscard]] virtual std::string_view note() const { return ""; }
  /// Keeps what was compiled for it, for the next process.
  virtual void save() noexcept {}
};

/// How an engine is used. `name` is its file's; `fixed`: every shape of it is. `eager`: kernels for a new shape are
/// compiled before it runs, and not beside it. `kernels` is the file of those that were compiled, `warn` who is told
/// that it cannot be read.
struct EngineUse {
  std::string name;
  bool fixed = false;
  bool eager = false;
  std::optional<std::filesystem::path> kernels = std::nullopt;
  std::function<void(const std::string&)> warn = {};
};

/// The version of the runtime's library, as in "11.1.0.106".
[[nodiscard]] std::string runtime_version();

/// The engine of these bytes, on the device that this thread uses. Throws EngineError where the runtime refuses it.
[[nodiscard]] std::unique_ptr<Engine> engine_of_bytes(std::string_view bytes, const EngineUse& use);

}  // namespace plainconv
