#include <doctest/doctest.h>

#include <atomic>
#include <functional>
#include <mutex>

#include "doubles.hpp"
#include "text.hpp"
#include "workers.hpp"

namespace {

using plainconv::Schedule;
using plainconv::Step;

/// A stem, two branches on two places, and what joins them.
struct Diamond {
  Diamond() : parts(4) {
    const std::vector<std::vector<std::size_t>> reads = {{}, {0}, {0}, {1, 2}};
    for (std::size_t i = 0; i < parts.size(); ++i) {
      parts[i].name = plainconv::text("p", i);
      Step step{&parts[i], i == 2 ? std::size_t{1} : std::size_t{0}, {}, reads[i].size(), {}};
      for (const std::size_t read : reads[i]) {
        schedule.steps[read].followers.push_back(i);
      }
      schedule.steps.push_back(step);
    }
    schedule.places = {{0, 0}, {1, 0}};
  }

  std::vector<plainconv::PartRecord> parts;
  Schedule schedule;
};

/// Notes which steps run, and does what it is told.
class Noted : public plainconv::Request {
 public:
  Noted(const Schedule& schedule, std::function<void(Noted&, std::size_t)> act)
      : Request(schedule), act_(std::move(act)) {}
  void run(std::size_t step) override {
    act_(*this, step);
    const std::scoped_lock lock(mutex_);
    order.push_back(step);
  }
  void stop() noexcept override { stopped = true; }

  std::vector<std::size_t> order;
  std::atomic<bool> stopped = false;

 private:
  std::function<void(Noted&, std::size_t)> act_;
  std::mutex mutex_;
};

constexpr std::chrono::seconds patience(60);

}  // namespace

TEST_CASE("steps run when what they read has run, request after request") {
  const Diamond diamond;
  plainconv::Workers workers(diamond.schedule, [](std::size_t /*place*/) {});
  Noted request(diamond.schedule, [](Noted& /*own*/, std::size_t /*step*/) {});
  for (int round = 0; round < 100; ++round) {
    request.order.clear();
    workers.run(request, patience);
    REQUIRE(request.order.size() == 4);
    CHECK(request.order.front() == 0);
    CHECK(request.order.back() == 3);
  }
}

TEST_CASE("many callers at once") {
  const Diamond diamond;
  plainconv::Workers workers(diamond.schedule, [](std::size_t /*place*/) {});
  std::atomic<int> steps = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      Noted request(diamond.schedule, [&](Noted& /*own*/, std::size_t /*step*/) { ++steps; });
      for (int round = 0; round < 50; ++round) {
        workers.run(request, patience);
      }
    });
  }
  for (auto& caller : callers) {
    caller.join();
  }
  CHECK(steps == 4 * 50 * 4);
}

TEST_CASE("the first step to fail ends the request, and the next one runs") {
  const Diamond diamond;
  plainconv::Workers workers(diamond.schedule, [](std::size_t /*place*/) {});
  bool fails = true;
  Noted request(diamond.schedule, [&](Noted& /*own*/, std::size_t step) {
    if (fails && step == 0) {
      throw plainconv::EngineError("no luck");
    }
  });
  CHECK(thrown_by<plainconv::EngineError>([&] { workers.run(request, patience); }) == "no luck");
  CHECK(request.stopped);
  CHECK(request.order.empty());
  fails = false;
  workers.run(request, patience);
  CHECK(request.order.size() == 4);
}

TEST_CASE("a request that takes too long is told to stop, and named") {
  const Diamond diamond;
  plainconv::Workers workers(diamond.schedule, [](std::size_t /*place*/) {});
  Noted request(diamond.schedule, [](Noted& own, std::size_t step) {
    while (step == 2 && !own.stopped) {
      std::this_thread::yield();
    }
  });
  const auto said = thrown_by<plainconv::EngineError>([&] { workers.run(request, std::chrono::milliseconds(50)); });
  CHECK(contains(said, "the request took longer than 0.05 s, part"));
  CHECK(contains(said, "p2"));
}

TEST_CASE("a place that cannot start is an error, and no thread is left") {
  const Diamond diamond;
  const auto start = [](std::size_t place) {
    if (place == 1) {
      throw plainconv::EngineError("no such part");
    }
  };
  CHECK(thrown_by<plainconv::EngineError>([&] { plainconv::Workers(diamond.schedule, start); }) == "no such part");
}
