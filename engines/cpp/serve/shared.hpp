// What the connections of all protocols share.
#pragma once

#include <atomic>
#include <cstddef>

#include "access_log.hpp"
#include "auth.hpp"
#include "service.hpp"

namespace plainconv::serve {

struct Shared {
  Service& service;
  AccessLog& log;
  Batcher::Complain complain;
  Bearer bearer;
  std::atomic<bool> draining = false;      // about to stop: not ready
  std::atomic<bool> refusing = false;      // it stops: nothing new over gRPC
  std::atomic<std::size_t> under_way = 0;  // requests whose head was read, and that have no answer yet
  std::atomic<std::size_t> handled = 0;    // requests that had been
  std::atomic<std::size_t> computing = 0;  // requests that a queue is to wake

  /// Whether it takes requests.
  [[nodiscard]] bool is_ready() const { return !draining && !service.store().ready().empty(); }
};

/// Counts what goes on as long as it lives.
class Counted {
 public:
  explicit Counted(std::atomic<std::size_t>& now, std::atomic<std::size_t>* ended = nullptr)
      : now_(now), ended_(ended) {
    ++now_;
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  Counted(Counted&&) = delete;
  Counted& operator=(Counted&&) = delete;
  ~Counted() {
    if (ended_ != nullptr) {
      ++*ended_;
    }
    --now_;
  }

 private:
  std::atomic<std::size_t>& now_;
  std::atomic<std::size_t>* ended_;
};

}  // namespace plainconv::serve
