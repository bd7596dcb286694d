// Things that one call at a time may use, made when there are too few and kept for the calls to come.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace plainconv {

template <class T>
class Pool {
 public:
  explicit Pool(std::function<std::unique_ptr<T>()> make) : make_(std::move(make)) { give_back(added()); }

  /// What a call has of it; gives it back at its end.
  class Lease {
   public:
    explicit Lease(Pool& pool) : pool_(pool), held_(pool.taken()) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Lease(Lease&&) = delete;
    Lease& operator=(Lease&&) = delete;
    ~Lease() { pool_.give_back(std::move(held_)); }
    T& operator*() const noexcept { return *held_; }
    T* operator->() const noexcept { return held_.get(); }

   private:
    Pool& pool_;
    std::unique_ptr<T> held_;
  };

 private:
  std::unique_ptr<T> taken() {
    {
      const std::scoped_lock lock(mutex_);
      if (!free_.empty()) {
        auto last = std::move(free_.back());
        free_.pop_back();
        return last;
      }
    }
    return added();
  }
  std::unique_ptr<T> added() {
    auto made = make_();
    const std::scoped_lock lock(mutex_);
    free_.reserve(++made_);  // so that none that is given back needs memory
    return made;
  }
  void give_back(std::unique_ptr<T> held) noexcept {
    const std::scoped_lock lock(mutex_);
    free_.push_back(std::move(held));
  }

  std::function<std::unique_ptr<T>()> make_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> free_;
  std::size_t made_ = 0;
};

}  // namespace plainconv
