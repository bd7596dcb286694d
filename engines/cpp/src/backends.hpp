// What a backend is: it loads a bundle, whole or in parts, and gives a runner. A new runtime is one more file with both.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/reader.hpp"
#include "plainconv/bundle.hpp"

namespace plainconv {

/// A network that a runtime has loaded. Any number of threads may call it at once.
class Runner {
 public:
  Runner() = default;
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  Runner(Runner&&) = delete;
  Runner& operator=(Runner&&) = delete;
  virtual ~Runner() = default;

  /// Run once, into the caller's memory. Both have been checked against the specs of the bundle.
  virtual void run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) = 0;

  /// Run once, where the shape of an output is not known before.
  [[nodiscard]] virtual std::vector<Array> run_to_arrays(std::span<const ConstTensor> inputs) = 0;

  /// Whether it takes tensors in the memory of a GPU.
  [[nodiscard]] virtual bool takes_device_memory() const noexcept { return false; }
};

/// That a backend can run nothing of what was asked for here: another one may.
class CannotRunError : public EngineError {
 public:
  using EngineError::EngineError;
};

/// A runtime: its name, and how it loads a bundle.
struct Backend {
  std::string_view name;

  /// The graph of `precision`. Throws EngineError where the runtime objects.
  std::unique_ptr<Runner> (*load)(const Bundle& bundle, const std::string& precision, const Options& options);

  /// The parts of `split`, its device i on `options.devices[i]`, of which there are as many as it has.
  std::unique_ptr<Runner> (*load_split)(const Bundle& bundle, const SplitRecord& split, const Options& options);

  /// The precision that "auto" stands for; with `options.devices`, of the split. Null where that is fp32, if there is
  /// one. Throws CannotRunError.
  std::string (*fastest)(const Bundle& bundle, const Options& options) = nullptr;
};

/// Those that were built in, the first choice first.
[[nodiscard]] std::span<const Backend> built_backends() noexcept;

}  // namespace plainconv
