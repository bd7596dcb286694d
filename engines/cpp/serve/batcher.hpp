// The queue of a model, and the threads that run it in batches.
//
// Given requests that arrive one by one -> runs of up to `most_rows` rows; each request gets its own rows back.
//
// A request waits until a thread is free, then until the batch is full or `max_delay` has passed since it arrived,
// whichever is first. A batch takes the oldest request and those after it of the same shape, in order. Where a run of
// several fails, each is run alone, so that what fails is one request's own.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "options.hpp"
#include "plainconv/bundle.hpp"
#include "refusals.hpp"

namespace plainconv::serve {

/// How to batch: `most_rows` is 0 where every request runs alone; `threads` run at the same time.
struct BatchRules {
  std::int64_t most_rows = 0;
  std::chrono::microseconds max_delay{0};
  std::size_t max_queue = 256;
  int threads = 1;
};

/// A request in the queue: its inputs, and its outputs, which are written to. What both are in, it keeps alive: a run
/// that nobody waits for any more goes on.
struct Job {
  std::vector<ConstTensor> inputs;
  std::vector<Tensor> outputs;  // none: the runtime makes them, as `made`
  std::vector<Array> made;
  std::shared_ptr<const void> memory;
  std::int64_t rows = 1;
  Clock::time_point deadline;
  Seconds timeout{0};  // that the deadline came from

  /// Called once, from a thread of the queue, when the job is done; it must not wait. Never after `abandon`.
  std::function<void()> when_done;

  // How long the request waited; of its run: its rows, and how long putting inputs together, running and taking outputs
  // apart took.
  Seconds queued{0};
  Seconds joined{0};
  Seconds computed{0};
  Seconds parted{0};
  std::int64_t batch_rows = 0;

 private:
  friend class Batcher;
  Clock::time_point arrived_;
  bool abandoned_ = false;  // nobody waits for it
  bool done_ = false;
  std::optional<Refused> refused_;
};

/// The queue of one model. From any thread.
class Batcher {
 public:
  /// Is told of every run: its rows, and the seconds it took.
  using Observe = std::function<void(std::int64_t rows, Seconds took)>;
  /// Is told why a run failed.
  using Complain = std::function<void(const std::string& why)>;

  Batcher(const Network& network, const BatchRules& rules, Observe observe, Complain complain);
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;
  Batcher(Batcher&&) = delete;
  Batcher& operator=(Batcher&&) = delete;
  /// Answers what is in the queue, and ends the threads.
  ~Batcher();

  /// Put a request, which has been checked, into the queue. Throws Refused where it is full.
  void submit(const std::shared_ptr<Job>& job);

  /// Whether the job is done. Throws Refused where its run failed.
  [[nodiscard]] bool is_done(const Job& job) const;

  /// Nobody waits for the job any more: it leaves the queue, but for a run that is under way.
  void abandon(const std::shared_ptr<Job>& job);

  /// How many requests are in the queue.
  [[nodiscard]] std::size_t waiting() const;

 private:
  using Batch = std::vector<std::shared_ptr<Job>>;
  struct Scratch;

  void work();
  [[nodiscard]] Batch next();
  [[nodiscard]] Batch gathered(std::unique_lock<std::mutex>& lock, std::shared_ptr<Job> first);
  void run(const Batch& gathered, Scratch& scratch);
  void compute(const Batch& batch, Scratch& scratch) const;
  void compute_alone(Job& job) const;
  void finish(const Batch& batch, const std::optional<Refused>& refused);
  [[nodiscard]] Refused refusal_of(const std::exception& error) const;

  const Network& network_;
  const BatchRules rules_;
  const Observe observe_;
  const Complain complain_;
  std::deque<std::shared_ptr<Job>> queue_;
  mutable std::mutex mutex_;
  std::mutex turn_;  // one thread at a time gathers a batch
  std::condition_variable changed_;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace plainconv::serve
