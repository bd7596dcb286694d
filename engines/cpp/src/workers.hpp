// The steps of a schedule on threads, one a place: a step runs when what it reads is there, in several requests at
// once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "schedule.hpp"

namespace plainconv {

/// One run of a schedule, to be used for one after the other. What a step does is a subclass's.
class Request {
 public:
  explicit Request(const Schedule& schedule);
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  Request(Request&&) = delete;
  Request& operator=(Request&&) = delete;
  virtual ~Request() = default;

  /// Run a step, on the thread of its place; what it reads has run before. What it throws ends the request.
  virtual void run(std::size_t step) = 0;

  /// Let the steps that run end as soon as they can. Called on any thread, while they do.
  virtual void stop() noexcept = 0;

 private:
  friend class Workers;
  std::uint64_t number_ = 0;
  std::vector<std::size_t> missing_;  // of each step, how many of those that it reads from
  std::vector<bool> ended_;
  std::size_t left_ = 0;
  std::size_t running_ = 0;
  bool failed_ = false;
  bool no_memory_ = false;
  std::string error_;
  std::condition_variable done_;
};

/// One thread for each place of a schedule. Any number of threads may ask them to run it.
///
/// A place takes, of the steps that are ready there, the one of the oldest request, of these the first in the order of
/// the schedule. A step that waits for another place keeps no place busy.
class Workers {
 public:
  /// Call `start` for each place on the thread of that place. Throws EngineError with what it threw, of the first such
  /// place. `schedule` must outlive this.
  Workers(const Schedule& schedule, const std::function<void(std::size_t place)>& start);
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  Workers(Workers&&) = delete;
  Workers& operator=(Workers&&) = delete;
  /// No request may be under way.
  ~Workers();

  /// Run all steps, and wait for them.
  ///
  /// The first step to throw ends the request: no further step begins, `stop` is called, and none is running any more
  /// when this throws EngineError. So does the end of `timeout`; what the steps of other requests take is in it.
  void run(Request& request, std::chrono::duration<double> timeout);

 private:
  struct Ready {
    std::uint64_t number;
    std::size_t step;
    Request* request;
  };
  struct AtPlace {
    std::vector<Ready> heap;
    std::condition_variable call;
  };
  struct Start;

  void work(std::size_t place);
  void execute(std::unique_lock<std::mutex>& lock, Request& request, std::size_t step);
  void make_ready(Request& request, std::size_t step);
  void fail(Request& request, std::string error, bool no_memory);
  void end_threads();
  [[nodiscard]] static bool settled(const Request& request) noexcept;
  [[nodiscard]] std::string left_of(const Request& request) const;

  const Schedule& schedule_;
  std::mutex mutex_;
  std::vector<AtPlace> places_;
  std::uint64_t numbers_ = 0;
  bool over_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace plainconv
