// Many calls of many threads, and GPUs that die under them, on stand-ins.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>

#include "calls.hpp"

namespace {

using plainconv::EngineError;

/// Of each network the GPUs that its parts run on.
const std::vector<std::pair<SplitNetwork (*)(Batches), std::vector<int>>> placements = {
    {&whole, {1}}, {&diamond, {0, 0}}, {&diamond, {1, 0}}, {&diamond, {0, 2}}};

int number_of_calls() {
  const char* number = std::getenv("PLAINCONV_TEST_CALLS");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return number == nullptr ? 400 : std::atoi(number);        // NOLINT(cert-err34-c): ours
}

/// Calls by eight threads: how many were right, and what the others threw.
struct Storm {
  Storm(plainconv::Runner& runner, const SplitNetwork& net, const std::shared_ptr<Gpus>& cuda, int calls, int device) {
    std::vector<std::thread> threads;
    std::mutex mutex;
    for (int thread = 0; thread < 8; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937 random(static_cast<unsigned>(thread));
        for (int i = 0; i < calls / 8; ++i) {
          const std::int64_t batch = net.batches.empty() ? 2 : 1 + random() % 4;
          const unsigned on_gpu = random() % 4 == 0 ? random() % 8 : 0;
          const auto error = thrown_by<EngineError>([&] {
            const bool is_right = called(runner, net, cuda, batch, 100 * thread + i, on_gpu, device).right();
            (is_right ? right : wrong) += 1;
          });
          if (!error.empty()) {
            const std::scoped_lock lock(mutex);
            errors.insert(error);
            ++thrown;
          }
        }
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
  }
  std::atomic<int> right = 0;
  std::atomic<int> wrong = 0;
  int thrown = 0;
  std::set<std::string> errors = {};
};

}  // namespace

TEST_CASE("thousands of calls by eight threads, of open and of fixed shapes: each gets its own results") {
  const int calls = number_of_calls();
  for (const Batches& batches : {Batches{{1, 4}}, Batches{}}) {
    for (const auto& [make, devices] : placements) {
      auto net = make(batches);
      net.scratch = 500;
      const auto cuda = a_cuda();
      {
        const auto runner = net.runner(devices);
        const Storm storm(*runner, net, cuda, calls, devices[0]);
        CHECK(storm.errors == std::set<std::string>{});
        CHECK(storm.right == calls / 8 * 8);
        CHECK(runner->lanes() <= 8);
      }
      check_clean(*cuda);
    }
  }
}

TEST_CASE("a GPU dies amid the calls of eight threads: each call is right or says so, and the runner is lost") {
  const std::array deaths{1, 30, 200, 500};
  for (const auto& [make, devices] : placements) {
    for (const int calls_left : deaths) {
      auto net = make({{1, 4}});
      net.timeout = std::chrono::seconds(10);
      const auto cuda = a_cuda(static_cast<unsigned>(calls_left));
      {
        const auto runner = net.runner(devices);
        {
          const std::scoped_lock lock(cuda->mutex);
          cuda->dies[devices.back()] = calls_left;
        }
        const Storm storm(*runner, net, cuda, 160, devices[0]);
        CHECK(storm.wrong == 0);
        CHECK(storm.thrown > 0);
        CHECK(runner->lost());
        for (const auto& error : storm.errors) {
          CAPTURE(error);
          CHECK((contains(error, "failed") && error.find('\n') == std::string::npos));
        }
        CHECK(contains(refused(*runner, net, cuda), "the runner is lost: "));
      }
      CHECK(cuda->broken() == "");
      (void)cudaGetLastError();
    }
  }
}
