// How a call runs, on stand-ins: what waits for what, and parts and calls of CUDA that fail.
#include <doctest/doctest.h>

#include <thread>

#include "calls.hpp"
#include "text.hpp"

using plainconv::EngineError;

TEST_CASE("between input and output nothing waits: parts are enqueued, and streams wait by events") {
  const auto cuda = a_cuda();
  auto net = diamond();
  {
    const auto runner = net.runner({0, 1});
    CHECK(right(*runner, net, cuda, 1));
    cuda->calls.clear();
    cuda->hold = true;
    std::thread caller([&] { CHECK(right(*runner, net, cuda, 2, 3)); });
    for (;;) {  // all of it is enqueued while nothing has run
      const std::scoped_lock lock(cuda->mutex);
      if (cuda->count("to host") == 1) {
        break;
      }
    }
    {
      const std::scoped_lock lock(cuda->mutex);
      CHECK(cuda->count("execute") == 3);
      CHECK(cuda->count("to device") == 2);
      CHECK(cuda->count("to peer") == 2);
      cuda->hold = false;
    }
    caller.join();
  }
  check_clean(*cuda);
}

TEST_CASE("every wait is needed: without it two pieces of work meet on the same memory, or the host reads too early") {
  auto net = diamond();
  const auto schedule = schedule_of(net.split, net.manifest);
  const auto program = program_of(plainconv::Layout(schedule, {0, 1}, 2), {false, false, false});
  std::set<std::size_t> last;
  std::size_t wait = 0;
  std::size_t needed = 0;
  for (std::size_t at = 0; at < program.works.size(); ++at) {
    for (const std::size_t other : program.works[at].after) {
      ++wait;
      if (at + 1 == program.works.size()) {
        last.insert(wait);
      } else if (other != 0) {  // the beginning of a first request has nothing before it
        const auto cuda = a_cuda();
        cuda->forgotten = {wait};
        ++needed;
        const auto runner = net.runner({0, 1});
        (void)right(*runner, net, cuda, 1);
        CHECK(contains(cuda->broken(), "neither waits for the other"));
      }
    }
  }
  CHECK(needed >= 6);
  int wrong = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto cuda = a_cuda(seed);
    cuda->forgotten = last;
    const auto runner = net.runner({0, 1});
    wrong += right(*runner, net, cuda, 1) && cuda->astray.empty() ? 0 : 1;
    cuda->drain();
  }
  CHECK(wrong > 0);
}

TEST_CASE("shapes that no profile covers are refused before anything is enqueued") {
  auto net = diamond();
  net.batches = {{1, 1}, {3, 4}};
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({0, 1});
    cuda->calls.clear();
    CHECK(refused(*runner, net, cuda, 2) ==
          "a [2, 4], b [2, 4] is in no optimization profile of the engine (profile 0: a [1, 4] to [1, 4], b [1, 4] to "
          "[1, 4]; profile 1: a [3, 4] to [4, 4], b [3, 4] to [4, 4]); split it, or build the engine for it");
    CHECK(cuda->count("execute") == 0);
    for (int seed = 0; seed < 8; ++seed) {
      CHECK(right(*runner, net, cuda, seed, 1 + seed % 2 * 3));
    }
  }
  check_clean(*cuda);
}

TEST_CASE("whichever call of CUDA fails, opening or running: one line, nothing leaks, and the next request is right") {
  for (const auto& [make, devices] : {std::pair{&whole, std::vector{0}}, std::pair{&diamond, std::vector{0, 1}}}) {
    std::size_t failed = 0;
    for (std::size_t at = 1;; ++at) {
      auto net = make({{1, 4}});
      net.scratch = 300;
      const auto cuda = a_cuda(static_cast<unsigned>(at));
      std::unique_ptr<plainconv::TensorRTRunner> runner;
      cuda->fail_at = at;
      bool all_right = true;
      const auto error = thrown_by<EngineError>([&] {
        runner = net.runner(devices);
        for (int seed = 0; seed < 4; ++seed) {
          all_right = right(*runner, net, cuda, seed) && all_right;
        }
      });
      if (cuda->failed.empty()) {
        break;
      }
      failed += error.empty() ? 0 : 1;
      CAPTURE(cuda->failed);
      CHECK(error.find('\n') == std::string::npos);
      const bool is_lost = cuda->failed == "idle";  // who cannot ask whether work has ended can free nothing
      CHECK(contains(error, "a GPU failed while ") == is_lost);
      if (runner != nullptr && !is_lost) {
        for (int seed = 4; seed < 7; ++seed) {
          all_right = right(*runner, net, cuda, seed) && all_right;
        }
      }
      CHECK(all_right);
      runner.reset();
      CHECK(cuda->broken() == "");
      CHECK((is_lost || cuda->empty()));
    }
    CHECK(failed > 40);
  }
}

TEST_CASE("a part that refuses is named, and the next request runs") {
  for (std::size_t part = 0; part < 3; ++part) {
    for (int calls = 0; calls < 3; ++calls) {
      auto net = diamond();
      const auto cuda = a_cuda();
      {
        const auto runner = net.runner({0, 1});
        for (int seed = 0; seed < calls; ++seed) {
          CHECK(right(*runner, net, cuda, seed));
        }
        net.engines[part]->refuses = {"execute"};
        for (int again = 0; again < 2; ++again) {
          CHECK(contains(refused(*runner, net, cuda),
                         plainconv::text("part p", part, " on GPU ", part == 1 ? 1 : 0, ": the engine did not run")));
          CHECK_FALSE(cuda->busy());
        }
        net.engines[part]->refuses = {"shape"};
        CHECK(contains(refused(*runner, net, cuda, 4), "the engine does not take "));
        net.engines[part]->refuses = {};
        for (int seed = 0; seed < 5; ++seed) {
          CHECK(right(*runner, net, cuda, seed, 4));
        }
      }
      check_clean(*cuda);
    }
  }
}

TEST_CASE("a part that does not suit from the start is named, and nothing stays") {
  for (const auto& [refuses, message] :
       {std::pair{"context", "part p1 on GPU 1: the engine gives no execution context"},
        std::pair{"data", "part p1 on GPU 1: the shape of v2 depends on the data"},
        std::pair{"shape", "part p1 on GPU 1: the engine does not take v0 of shape [4, 4]"}}) {
    auto net = diamond();
    net.refuses[1] = {refuses};
    const auto cuda = a_cuda();
    CHECK(contains(thrown_by<EngineError>([&] { (void)net.runner({0, 1}); }), message));
    CHECK(cuda->device() == 0);
    check_clean(*cuda);
  }
}

TEST_CASE("a part that refuses its buffers is named, and the next request runs") {
  auto net = diamond();
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({0, 1});
    net.engines[1]->refuses = {"address"};
    CHECK(refused(*runner, net, cuda) == "part p1 on GPU 1: the engine takes no buffer for v0; build it again");
    net.engines[1]->refuses = {};
    CHECK(right(*runner, net, cuda, 1));
  }
  check_clean(*cuda);
}
