// A request to the model, answered in time and counted. Knows nothing of sockets.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "access_log.hpp"
#include "batcher.hpp"
#include "checks.hpp"
#include "connection.hpp"
#include "metrics.hpp"
#include "options.hpp"

namespace plainconv::serve {

inline constexpr std::string_view model_version = "1";

/// An answer: a head of JSON, then tensors, which `memory` keeps.
struct Reply {
  std::string json;
  std::vector<std::span<const std::byte>> tensors;
  std::shared_ptr<const void> memory;
};

/// The name that a model is served by. Throws Error for one that no URL could hold.
[[nodiscard]] std::string model_name_of(const std::string& wanted, const std::string& network);

class Service {
 public:
  /// Loads nothing, but runs the network once, where its shapes say how. Throws EngineError where that fails.
  Service(const Network& network, const ServeOptions& options, Batcher::Complain complain);

  /// The answer to a request whose body was read. Throws Refused.
  [[nodiscard]] Reply infer(std::string_view model, std::string_view version, Body body,
                            std::optional<std::size_t> json_length, const std::function<bool()>& is_left, Facts& facts);

  /// Throws Refused for a model that is not there, or another version of it than the only one.
  void check(std::string_view model, std::optional<std::string_view> version) const;

  /// Whether the network lost its device, which is complained of once: it computes no more.
  [[nodiscard]] bool is_lost() const;

  /// What the protocol says of the server and the model, as JSON.
  [[nodiscard]] static std::string server_metadata();
  [[nodiscard]] std::string model_metadata() const;

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::string metrics_text() const { return metrics_.text(batcher_.waiting(), !is_lost()); }
  [[nodiscard]] Metrics& metrics() noexcept { return metrics_; }

  /// Room for a request of `size` bytes, as long as it lives. Throws Refused where all of them would take too much.
  class Room {
   public:
    Room(Service& service, std::size_t size);
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;
    Room(Room&&) = delete;
    Room& operator=(Room&&) = delete;
    ~Room() { service_.pending_ -= size_; }

   private:
    Service& service_;
    std::size_t size_;
  };

 private:
  struct Memory;

  [[nodiscard]] Reply answered(Body body, std::optional<std::size_t> json_length, const std::function<bool()>& is_left,
                               Facts& facts);
  void check_rows(const Job& job) const;
  void give_outputs(Job& job, Memory& memory) const;

  const Network& network_;
  const ServeOptions& options_;
  std::string name_;
  Batcher::Complain complain_;
  mutable std::atomic<bool> has_complained_ = false;
  Checks checks_;
  bool has_batch_;
  Metrics metrics_;
  std::atomic<std::size_t> pending_ = 0;
  Batcher batcher_;
};

}  // namespace plainconv::serve
