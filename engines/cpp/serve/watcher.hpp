// A look, every so often.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "batcher.hpp"
#include "options.hpp"
#include "text.hpp"

namespace plainconv::serve {

/// Calls `look` every so often, in a thread of its own, until its end; `complain` is told of one that fails.
class Watcher {
 public:
  /// 0 is never.
  Watcher(Seconds every, std::function<void()> look, Batcher::Complain complain)
      : look_(std::move(look)), complain_(std::move(complain)) {
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
      try {
        look_();
      } catch (const std::exception& error) {  // such as that there is too little memory
        complain_(text("what may have changed could not be looked at: ", error.what()));
      }
      lock.lock();
    }
  }

  std::function<void()> look_;
  Batcher::Complain complain_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace plainconv::serve
