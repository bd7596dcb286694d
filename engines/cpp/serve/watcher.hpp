// A look, every so often.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "options.hpp"

namespace plainconv::serve {

/// Calls `look` every so often, in a thread of its own, until its end.
class Watcher {
 public:
  /// 0 is never.
  Watcher(Seconds every, std::function<void()> look) : look_(std::move(look)) {
    if (every.count() > 0) {
      thread_ = std::thread([this, every] { watch(every); });
    }
  }
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;
  Watcher(Watcher&&) = delete;
  Watcher& operator=(Watcher&&) = delete;
  ~Watcher() {
    {
      const std::scoped_lock lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) {
      thread_.join();
    }
  }

 private:
  void watch(Seconds every) {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, every, [this] { return ends_; })) {
      lock.unlock();
      look_();
      lock.lock();
    }
  }

  std::function<void()> look_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace plainconv::serve
