// What does not end and what is lost, on stand-ins.
#include <doctest/doctest.h>

#include <algorithm>

#include "calls.hpp"

using plainconv::EngineError;

TEST_CASE("what does not end is given up in time; the runner is lost, and frees nothing that a GPU may be at") {
  auto net = diamond();
  net.timeout = std::chrono::milliseconds(50);
  const auto cuda = a_cuda();
  std::vector<std::shared_ptr<standin::EngineFacts>> engines;
  {
    const auto runner = net.runner({0, 1});
    CHECK(right(*runner, net, cuda, 1));
    net.engines[1]->refuses = {"end"};
    CHECK(refused(*runner, net, cuda, 3) ==
          "the request did not end within 0.05 s: no end of p1 on GPU 1, p2 on GPU 0; load the bundle again, in a new "
          "process if the GPU still hangs");
    CHECK(runner->lost());
    cuda->calls.clear();
    CHECK(contains(refused(*runner, net, cuda, 3), "the runner is lost: the request did not end within 0.05 s"));
    CHECK(cuda->calls.empty());
    engines = net.engines;
  }
  CHECK(cuda->count("free") + cuda->count("free_host") + cuda->count("destroy_stream") == 0);
  CHECK(std::ranges::all_of(engines, [](const auto& each) { return each->contexts > 0; }));
  CHECK(cuda->broken() == "");
}

TEST_CASE("a graph that does not end, and a whole network, say what is known") {
  for (const auto& [make, devices, message] :
       {std::tuple{&whole, std::vector{0}, "no end of the network, a CUDA graph;"},
        std::tuple{&diamond, std::vector{0, 1},
                   "no end of one of p0, p1, p2, a CUDA graph, which does not say of which;"}}) {
    auto net = make({{1, 4}});
    net.timeout = std::chrono::milliseconds(50);
    const auto cuda = a_cuda();
    {
      const auto runner = net.runner(devices);
      for (int seed = 0; seed < 4; ++seed) {
        CHECK(right(*runner, net, cuda, seed));
      }
      cuda->hold = true;
      CHECK(contains(refused(*runner, net, cuda), message));
      cuda->hold = false;  // it ends after all: then everything can be given back
      cuda->drain();
    }
    check_clean(*cuda);
  }
}

TEST_CASE("a lane that cannot be made, as something never ends, keeps what it has") {
  auto net = diamond();
  net.timeout = std::chrono::milliseconds(50);
  const auto cuda = a_cuda();
  cuda->hold = true;
  CHECK(contains(thrown_by<EngineError>([&] {
                   (void)net.runner({0, 1});
                 }),
                 "what it waits for has not ended, and no part has begun"));
  CHECK(cuda->count("free") + cuda->count("destroy_stream") == 0);
  CHECK(cuda->broken() == "");
}

TEST_CASE("a GPU that is lost is named with what ran there") {
  auto net = diamond();
  net.timeout = std::chrono::milliseconds(200);
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({0, 1});
    for (int seed = 0; seed < 4; ++seed) {
      CHECK(right(*runner, net, cuda, seed));
    }
    net.engines[1]->refuses = {"crash"};
    CHECK(contains(refused(*runner, net, cuda),
                   "GPU 1 failed while parts p1 ran there (CUDA failed (cudaStreamQuery: unspecified launch failure)"));
    CHECK(contains(refused(*runner, net, cuda), "the runner is lost: GPU 1 failed while parts p1 ran there"));
  }
  CHECK(cuda->broken() == "");
}

TEST_CASE("a GPU that fails before anything is enqueued makes the runner lost too; a call that is refused does not") {
  auto net = whole();
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({1});
    CHECK(right(*runner, net, cuda, 1));
    net.engines[0]->refuses = {"execute"};
    CHECK_FALSE(refused(*runner, net, cuda).empty());
    net.engines[0]->refuses.clear();
    CHECK_FALSE(runner->lost());
    CHECK(right(*runner, net, cuda, 2));
    cuda->dead.insert(1);
    CHECK(contains(refused(*runner, net, cuda),
                   "GPU 1 failed (CUDA failed (cudaStreamQuery: unspecified launch failure)"));
    CHECK(runner->lost());
    CHECK(contains(refused(*runner, net, cuda), "the runner is lost: GPU 1 failed ("));
  }
  CHECK(cuda->broken() == "");
}
