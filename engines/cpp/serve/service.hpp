// What a protocol calls: a request to a model by name, answered in time, and counted. Knows nothing of sockets.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "access_log.hpp"
#include "body.hpp"
#include "input_checks.hpp"
#include "options.hpp"
#include "requests.hpp"
#include "shared_memory.hpp"
#include "store.hpp"

namespace plainconv::serve {

/// An answer: a head of JSON, then tensors, which `memory` keeps.
struct Reply {
  std::string json;
  std::vector<std::span<const std::byte>> tensors;
  std::shared_ptr<const void> memory;
};

/// What a request is in, from its body to its outputs.
struct Held {
  Body body;
  std::shared_ptr<const void> message;  // in the place of a body, where the protocol has messages
  Body shared;                          // copies of the inputs that lie in shared memory
  InferRequest request;
  std::vector<std::vector<std::int64_t>> shapes;  // of the outputs
  Body outputs;
};

/// A request under way, of one who began to ask at `start`: its model, what it is in and, once it is prepared, its job
/// for the queue, which keeps that.
struct Asked {
  std::shared_ptr<const Model> model;
  std::shared_ptr<Held> held;
  Clock::time_point start;
  std::vector<Chosen> chosen = {};
  std::shared_ptr<Job> job = {};
};

class Service {
 public:
  class Room;

  /// Throws Error where the options want shared memory, and the system has none.
  Service(Store& store, const ServeOptions& options, Metrics& metrics);

  /// The request in `body`. Throws Refused.
  [[nodiscard]] Asked read(std::string_view model, std::string_view version, Body body,
                           std::optional<std::size_t> json_length, Facts& facts) const;
  /// Check a request of any protocol, and make its job; inputs that lie in shared memory take their room. Throws
  /// Refused.
  void prepare(Asked& asked, Room& room);
  /// Put outputs that have their places there, once the job is done. Throws Refused.
  void put(Asked& asked);
  /// The outputs of a request whose job is done, and the answer that has them.
  [[nodiscard]] static std::vector<SentOutput> outputs(const Asked& asked);
  [[nodiscard]] static Reply reply(const Asked& asked);
  /// Count it, once its job is done.
  void succeeded(const Asked& asked, Facts& facts) const;

  /// What the protocol says of the server and a model, as JSON. Throws Refused.
  [[nodiscard]] std::string server_metadata() const;
  [[nodiscard]] std::string models() const;
  [[nodiscard]] std::string model_metadata(std::string_view model, std::string_view version) const;
  [[nodiscard]] std::string model_ready(std::string_view model, std::string_view version) const;
  [[nodiscard]] std::string config(std::string_view model, std::string_view version) const;
  [[nodiscard]] std::string statistics(std::string_view model, std::string_view version) const;
  [[nodiscard]] std::string index(bool ready_only) const;
  /// A region of shared memory, all without a name: a list, or in the form of gRPC an object.
  [[nodiscard]] std::string shared_memory_status(const std::string& region, bool by_name = false);
  [[nodiscard]] std::string metrics_text() const { return metrics_.text(store_.loaded()); }

  /// Throws Refused where models may not be listed, loaded and unloaded by request.
  void check_repository() const;
  /// The regions of shared memory. Throws Refused where they are not offered.
  [[nodiscard]] Regions& regions();
  [[nodiscard]] bool offers_shared_memory() const noexcept { return options_.shared_memory; }
  [[nodiscard]] Store& store() const noexcept { return store_; }
  [[nodiscard]] Metrics& metrics() const noexcept { return metrics_; }
  [[nodiscard]] const ServeOptions& options() const noexcept { return options_; }

  /// What one request takes of the memory that there is for all of them: bytes that are here, not announced ones.
  class Room {
   public:
    Room(Service& service, std::string peer) : service_(service), peer_(std::move(peer)) {}
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;
    Room(Room&&) = delete;
    Room& operator=(Room&&) = delete;
    ~Room();

    /// Take `size` bytes more. Throws Refused where that is too much, unless it is the only request; a quarter is kept
    /// from whoever fills the rest.
    void grow(std::size_t size);
    /// Take `size` bytes more of what is there already.
    void hold(std::size_t size);

   private:
    Service& service_;
    std::string peer_;
    std::size_t size_ = 0;
  };

 private:
  Store& store_;
  const ServeOptions& options_;
  Metrics& metrics_;
  std::optional<Regions> regions_;
  std::mutex mutex_;
  std::size_t pending_ = 0;
  std::map<std::string, std::size_t> pending_of_;  // by who sent it
};

/// The program's.
[[nodiscard]] std::string_view program_version() noexcept;

/// Throws Refused for another version than the only one there is; "" is any.
void check_version(std::string_view version);

}  // namespace plainconv::serve
