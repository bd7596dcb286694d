// What a backend is: it loads a bundle, whole or in parts, and gives a runner. A new runtime is one more file with both.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/reader.hpp"
#include "plainconv/bundle.hpp"
#include "reasons.hpp"

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

  /// Whether every further call throws at once. From any thread.
  [[nodiscard]] virtual bool lost() const noexcept { return false; }
};

/// A network that a backend has loaded, and in which precision.
struct Loaded {
  std::unique_ptr<Runner> runner;
  std::string precision;
};

/// A runtime: its name, and how it loads a bundle.
struct Backend {
  std::string_view name;

  /// The network whole or, where there are `options.devices`, in parts. What runs in the place of what `reasons` are of
  /// is told to `options.warn`.
  ///
  /// Nothing where none of its engines runs here: `reasons` then say why. Throws EngineError where the runtime objects.
  std::optional<Loaded> (*load)(const Bundle& bundle, const Options& options, Reasons& reasons);

  /// Whether it runs engines, and not the graphs themselves.
  bool runs_engines = false;
};

/// Those that were built in, the first choice first.
[[nodiscard]] std::span<const Backend> built_backends() noexcept;

}  // namespace plainconv
