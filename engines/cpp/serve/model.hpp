// One version of a model, loaded: what it takes and gives, and its queue.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "batcher.hpp"
#include "checks.hpp"
#include "metrics.hpp"
#include "options.hpp"

namespace plainconv::serve {

inline constexpr std::string_view model_version = "1";

/// Whether that is a name that a model may have: letters, digits and _ . + - after the first.
[[nodiscard]] bool is_model_name(std::string_view name) noexcept;

/// The name that a model is served by. Throws Error for one that no URL could hold.
[[nodiscard]] std::string model_name_of(const std::string& wanted, const std::string& network);

/// A model and its queue. Whoever uses it holds it; it ends, with its threads, where the last lets go of it.
class Model {
 public:
  /// Runs the network once, where its shapes say how. Throws EngineError where that fails.
  Model(std::string name, Network network, const ServeOptions& options, Metrics& metrics, Batcher::Complain complain);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const Network& network() const noexcept { return network_; }
  [[nodiscard]] const Checks& checks() const noexcept { return checks_; }
  [[nodiscard]] bool has_batch() const noexcept { return has_batch_; }
  [[nodiscard]] Batcher& batcher() const noexcept { return *batcher_; }
  /// The protocol's word for what runs it.
  [[nodiscard]] std::string_view platform() const noexcept;
  /// Whether it lost its device, which is complained of once: it computes no more.
  [[nodiscard]] bool is_lost() const;

 private:
  std::string name_;
  Network network_;
  Checks checks_;
  bool has_batch_;
  Batcher::Complain complain_;
  mutable std::atomic<bool> has_complained_ = false;
  std::unique_ptr<Batcher> batcher_;
};

}  // namespace plainconv::serve
