#include "workers.hpp"

#include <algorithm>
#include <new>
#include <optional>

#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::size_t most_names = 8;                   // in one message
constexpr auto longest = std::chrono::hours(24 * 365);  // what a clock can add

}  // namespace

Request::Request(const Schedule& schedule) : missing_(schedule.steps.size()), ended_(schedule.steps.size()) {}

/// What the threads tell of how they started.
struct Workers::Start {
  std::vector<std::optional<std::string>> errors;
  std::size_t left;
  std::condition_variable done;
};

Workers::Workers(const Schedule& schedule, const std::function<void(std::size_t place)>& start)
    : schedule_(schedule), places_(schedule.places.size()) {
  Start started{std::vector<std::optional<std::string>>(places_.size()), places_.size(), {}};
  const auto begin = [this, &start, &started](std::size_t place) {
    std::optional<std::string> error;
    try {
      start(place);
    } catch (const std::exception& thrown) {
      error = thrown.what();
    }
    {
      const std::scoped_lock lock(mutex_);
      started.errors[place] = error;
      --started.left;
      started.done.notify_one();  // under the lock: `started` lives until then only
    }
    if (!error) {
      work(place);
    }
  };
  try {
    for (std::size_t place = 0; place < places_.size(); ++place) {
      places_[place].heap.reserve(schedule.steps.size());
      threads_.emplace_back(begin, place);
    }
  } catch (const std::system_error& error) {
    {
      std::unique_lock lock(mutex_);
      started.left -= places_.size() - threads_.size();
      started.done.wait(lock, [&] { return started.left == 0; });
    }
    end_threads();
    throw EngineError(text("no thread can be started for each of ", places_.size(), " places (", one_line(error.what()),
                           "); allow this program more threads"));
  }
  {
    std::unique_lock lock(mutex_);
    started.done.wait(lock, [&] { return started.left == 0; });
  }
  for (const auto& error : started.errors) {
    if (error) {
      end_threads();
      throw EngineError(*error);
    }
  }
}

Workers::~Workers() { end_threads(); }

void Workers::end_threads() {
  {
    const std::scoped_lock lock(mutex_);
    over_ = true;
    for (AtPlace& place : places_) {
      place.call.notify_one();
    }
  }
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

void Workers::run(Request& request, std::chrono::duration<double> timeout) {
  const auto patience = std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::min<std::chrono::duration<double>>(timeout, longest));
  const auto deadline = std::chrono::steady_clock::now() + patience;
  std::unique_lock lock(mutex_);
  request.number_ = numbers_++;
  request.failed_ = request.no_memory_ = false;
  request.running_ = 0;
  request.left_ = schedule_.steps.size();
  request.ended_.assign(request.ended_.size(), false);
  for (std::size_t step = 0; step < schedule_.steps.size(); ++step) {
    request.missing_[step] = schedule_.steps[step].waits;
    if (request.missing_[step] == 0) {
      make_ready(request, step);
    }
  }
  if (!request.done_.wait_until(lock, deadline, [&] { return settled(request); })) {
    fail(request,
         text("the request took longer than ", decimal(timeout.count()), " s, ", left_of(request),
              " had not ended; give it more time, or the runner fewer requests at a time"),
         false);
    request.done_.wait(lock, [&] { return settled(request); });  // the caller's memory is in use until then
  }
  if (request.no_memory_) {
    throw std::bad_alloc();
  }
  if (request.failed_) {
    throw EngineError(request.error_);
  }
}

bool Workers::settled(const Request& request) noexcept {
  return (request.failed_ ? request.running_ : request.left_) == 0;
}

void Workers::work(std::size_t place) {
  AtPlace& here = places_[place];
  std::unique_lock lock(mutex_);
  for (;;) {
    here.call.wait(lock, [&] { return over_ || !here.heap.empty(); });
    if (over_) {
      return;
    }
    std::ranges::pop_heap(here.heap, std::ranges::greater{},
                          [](const Ready& r) { return std::pair(r.number, r.step); });
    const Ready next = here.heap.back();
    here.heap.pop_back();
    execute(lock, *next.request, next.step);
  }
}

void Workers::execute(std::unique_lock<std::mutex>& lock, Request& request, std::size_t step) {
  ++request.running_;
  std::optional<std::string> error;
  bool no_memory = false;
  lock.unlock();
  try {
    request.run(step);
  } catch (const std::bad_alloc&) {
    error.emplace();
    no_memory = true;
  } catch (const std::exception& thrown) {
    error = thrown.what();
  }
  lock.lock();
  --request.running_;
  --request.left_;
  request.ended_[step] = true;
  if (error) {
    fail(request, std::move(*error), no_memory);
  } else if (!request.failed_) {
    for (const std::size_t follower : schedule_.steps[step].followers) {
      if (--request.missing_[follower] == 0) {
        make_ready(request, follower);
      }
    }
  }
  if (settled(request)) {
    request.done_.notify_one();  // under the lock: the request may be gone right after
  }
}

void Workers::make_ready(Request& request, std::size_t step) {
  AtPlace& place = places_[schedule_.steps[step].place];
  place.heap.push_back({request.number_, step, &request});
  std::ranges::push_heap(place.heap, std::ranges::greater{},
                         [](const Ready& r) { return std::pair(r.number, r.step); });
  place.call.notify_one();
}

void Workers::fail(Request& request, std::string error, bool no_memory) {
  if (request.failed_) {
    return;
  }
  request.failed_ = true;
  request.no_memory_ = no_memory;
  request.error_ = std::move(error);
  for (AtPlace& place : places_) {
    std::erase_if(place.heap, [&](const Ready& ready) { return ready.request == &request; });
    std::ranges::make_heap(place.heap, std::ranges::greater{},
                           [](const Ready& r) { return std::pair(r.number, r.step); });
  }
  request.stop();
}

std::string Workers::left_of(const Request& request) const {
  std::vector<std::string> names;
  std::size_t more = 0;
  for (std::size_t step = 0; step < schedule_.steps.size(); ++step) {
    if (!request.ended_[step] && names.size() < most_names) {
      names.push_back(schedule_.steps[step].part->name);
    } else if (!request.ended_[step]) {
      ++more;
    }
  }
  const std::string rest = more == 0 ? "" : text(" and ", more, " more");
  return text(names.size() == 1 ? "part " : "parts ", joined(names, ", "), rest);
}

}  // namespace plainconv
