// What TensorRT-RTX alone has: CUDA graphs of its own, kernels that it compiles here, and what it thinks of an engine.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>

#include "folder.hpp"
#include "machine.hpp"
#include "tensorrt/backend.hpp"

namespace {

/// The folder of compiled kernels, as the environment names it.
struct Kernels {
  Kernels() {
    ::setenv("PLAINCONV_CACHE", folder.path.c_str(), 1);  // NOLINT(concurrency-mt-unsafe): there is one thread
  }
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;
  Kernels(Kernels&&) = delete;
  Kernels& operator=(Kernels&&) = delete;
  ~Kernels() { ::unsetenv("PLAINCONV_CACHE"); }  // NOLINT(concurrency-mt-unsafe)
  [[nodiscard]] std::vector<std::filesystem::path> files() const {
    return {std::filesystem::directory_iterator(folder.path), {}};
  }
  Folder folder;
};

constexpr int eager = 1;

}  // namespace

TEST_CASE("engines of fixed shapes have our graphs, and none of the runtime's") {
  for (const auto& [make, devices] : {std::pair{&whole, std::vector{1}}, std::pair{&diamond, std::vector{0, 1}}}) {
    auto net = make({});
    const auto cuda = a_cuda();
    {
      const auto runner = net.runner(devices);
      for (int seed = 0; seed < 6; ++seed) {
        CHECK(right(*runner, net, cuda, seed));
      }
      CHECK(runner->why_not_captured().empty());
      CHECK(cuda->graphs.size() == 1);
      CHECK(cuda->count("capturable") == net.engines.size());
      for (const auto& engine : net.engines) {
        CHECK(engine->with_own_graphs == 0);
        CHECK(engine->own_captures == 0);
      }
    }
    check_clean(*cuda);
  }
}

TEST_CASE("what the runtime says cannot be captured is not tried; calls stay right") {
  auto net = diamond({});
  net.refuses[1] = {"capturable"};
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({0, 1});
    for (int seed = 0; seed < 7; ++seed) {
      CHECK(right(*runner, net, cuda, seed));
    }
    CHECK(runner->why_not_captured() ==
          "part p1 on GPU 1: the engine cannot be captured as a CUDA graph, says the runtime");
    CHECK(cuda->count("begin_capture") == 0);
  }
  check_clean(*cuda);
}

TEST_CASE("engines of open shapes have the runtime's graphs, one for each call that comes again") {
  for (const auto& [make, devices] : {std::pair{&whole, std::vector{0}}, std::pair{&diamond, std::vector{1, 0}}}) {
    auto net = make({{1, 40}});
    const auto cuda = a_cuda();
    {
      const auto runner = net.runner(devices);
      for (int round = 0; round < 5; ++round) {
        for (const std::int64_t batch : {1, 3, 7}) {
          CHECK(right(*runner, net, cuda, round, batch));
        }
      }
      CHECK(runner->why_not_captured() == "the runtime makes CUDA graphs of its own, of engines of dynamic shapes");
      CHECK(cuda->graphs.empty());
      for (const auto& engine : net.engines) {
        CHECK(engine->with_own_graphs == 3);  // contexts, and a capture each
        CHECK(engine->own_captures == 3);
        CHECK(engine->contexts == 4);
      }
      for (std::int64_t batch = 1; batch <= 40; ++batch) {
        CHECK(right(*runner, net, cuda, 1, batch));
        CHECK(right(*runner, net, cuda, 2, batch));
      }
      CHECK(net.engines[0]->contexts == 17);  // those not used for longest make room
    }
    check_clean(*cuda);
  }
}

TEST_CASE("without memory for a context of its own a call runs on that of all") {
  auto net = whole();
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({0});
    CHECK(right(*runner, net, cuda, 1));
    net.engines[0]->refuses = {"context"};
    for (int seed = 0; seed < 4; ++seed) {
      CHECK(right(*runner, net, cuda, seed));
    }
    CHECK(contains(runner->why_not_captured(), "the engine gives no execution context"));
    CHECK(cuda->count("create context") == 2);
  }
  check_clean(*cuda);
}

TEST_CASE("kernels for a new shape are compiled before it runs where that is asked for") {
  for (const bool is_eager : {false, true}) {
    for (const Batches& batches : {Batches{}, Batches{{1, 4}}}) {
      const Kernels kernels;
      Machine machine(small(batches));
      machine.add("e", "fp32");
      {
        auto loaded = machine.load({.eager_kernels = is_eager});
        REQUIRE(loaded.has_value());
        for (int seed = 0; seed < 3; ++seed) {
          CHECK(right(*loaded->runner, machine.net, machine.cuda, seed));
        }
        CHECK(standin::library().engines.at(0)->kernels == std::set<int>{is_eager ? eager : 0});
      }
      check_clean(*machine.cuda);
    }
  }
}

TEST_CASE("what was compiled is on disk when the runner goes, and there for the next one") {
  const Kernels kernels;
  std::set<std::string> compiled;
  for (int process = 0; process < 2; ++process) {
    Machine machine(small({{1, 4}}));
    machine.add("e", "fp32");
    {
      auto loaded = machine.load();
      REQUIRE(loaded.has_value());
      CHECK(standin::library().engines.at(0)->loaded == compiled);
      CHECK(right(*loaded->runner, machine.net, machine.cuda, 1, 2));
      CHECK(right(*loaded->runner, machine.net, machine.cuda, 1, 3));
    }
    CHECK(machine.said.empty());
    check_clean(*machine.cuda);
    compiled = {R"({"a":[2,4]})", R"({"a":[3,4]})"};
    REQUIRE(kernels.files().size() == 1);
    CHECK(kernels.files()[0] ==
          kernels.folder.path / (machine.bundle.manifest.engines[0].sha256.substr(0, 32) + "-A_sm80-1.7.rtx"));
  }
  std::ofstream(kernels.files()[0]) << "not what it was";
  Machine machine(small({{1, 4}}));
  machine.add("e", "fp32");
  {
    auto loaded = machine.load();
    CHECK(right(*loaded->runner, machine.net, machine.cuda, 1));
    REQUIRE(machine.said.size() == 1);
    CHECK(contains(machine.said[0], "cannot be read (the runtime does not take it): they are compiled again"));
  }
  std::ifstream file(kernels.files()[0]);
  CHECK(file.get() == '[');
}

TEST_CASE("a runner that is lost writes nothing") {
  const Kernels kernels;
  Machine machine(small({{1, 4}}));
  machine.add("e", "fp32");
  {
    auto loaded = machine.load();
    machine.cuda->dead.insert(0);
    CHECK_FALSE(refused(*loaded->runner, machine.net, machine.cuda).empty());
    CHECK(loaded->runner->lost());
  }
  CHECK(kernels.files().empty());
  (void)cudaGetLastError();
}

TEST_CASE("an engine that could be faster is told of, one that is invalid is not loaded") {
  const Kernels kernels;
  Machine machine(small());
  machine.add("e", "fp32");
  standin::library().validity = 1;
  standin::library().causes = 4;
  const std::string runtime = "tensorrt_rtx " + plainconv::runtime_version();
  CHECK(machine.load().has_value());
  CHECK(machine.said == std::vector<std::string>{"e: " + runtime +
                                                 " finds it suboptimal (old cuda driver), it runs "
                                                 "slower; update the NVIDIA driver"});
  standin::library().validity = 2;
  CHECK_FALSE(machine.load().has_value());
  CHECK(machine.reasons.lines() == std::vector<std::string>{"e cannot run here: " + runtime +
                                                            " finds it invalid (old cuda driver); update the NVIDIA "
                                                            "driver"});
  check_clean(*machine.cuda);
}
