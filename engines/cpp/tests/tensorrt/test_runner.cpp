// Networks whole and in parts, on stand-ins: callers' memory, threads, and any schedule.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <random>
#include <thread>

#include "calls.hpp"

using plainconv::EngineError;
using plainconv::Memory;

TEST_CASE("a whole network runs on one stream without an event, then as a graph") {
  const auto cuda = a_cuda();
  auto net = whole();
  {
    const auto runner = net.runner({0});
    cuda->calls.clear();
    CHECK(right(*runner, net, cuda, 1));
    const std::vector<std::string> wanted = {"to device", "to device", "execute", "to host", "to host"};
    std::vector<std::string> found;
    std::ranges::copy_if(cuda->calls, std::back_inserter(found), [](const std::string& name) {
      return name != "use_device" && name != "shape" && name != "address";
    });
    CHECK(found == wanted);
    CHECK(right(*runner, net, cuda, 2));  // on contexts of its own
    CHECK(right(*runner, net, cuda, 3));  // captured
    CHECK(cuda->graphs.size() == 1);
    for (int seed = 4; seed < 8; ++seed) {
      cuda->calls.clear();
      CHECK(right(*runner, net, cuda, seed));
      CHECK(cuda->calls == std::vector<std::string>{"launch"});
    }
    CHECK(cuda->count("create_event") == 0);
  }
  check_clean(*cuda);
}

TEST_CASE("tensors in GPU memory are read and written in place") {
  for (const auto& [make, devices] : {std::pair{&whole, std::vector{0}}, std::pair{&diamond, std::vector{0, 1}}}) {
    const auto cuda = a_cuda(3);
    auto net = make({{1, 4}});
    const unsigned all = (1U << (net.manifest.inputs.size() + net.manifest.outputs.size())) - 1U;
    {
      const auto runner = net.runner(devices);
      for (int seed = 0; seed < 5; ++seed) {
        cuda->calls.clear();
        CHECK(called(*runner, net, cuda, 3, seed, all).right());
        CHECK(cuda->count("to device") + cuda->count("to host") == 0);
      }
      for (unsigned some = 0; some <= all; ++some) {
        CHECK(called(*runner, net, cuda, 2, static_cast<int>(some), some).right());
      }
    }
    check_clean(*cuda);
  }
}

TEST_CASE("tensors in memory that the engine cannot take are refused in one line") {
  const auto cuda = a_cuda();
  auto net = whole();
  {
    const auto runner = net.runner({0});
    CHECK(refused(*runner, net, cuda, 2, 1, 1) == "input a is on GPU 1, the engine on GPU 0; copy it there first");
    CHECK(refused(*runner, net, cuda, 2, 4, 1) == "output y is on GPU 1, the engine on GPU 0; copy it there first");
    const auto api = plainconv::cuda_runtime();
    const plainconv::UsingDevice home(*api, 0);
    const auto odd = api->allocate(512) + 32;
    std::vector<float> host(8);
    const std::array<std::int64_t, 2> shape{2, row};
    auto a = plainconv::input(std::span<const float>(Gpus::at<float>(odd), 8), shape, Memory::device);
    const auto b = plainconv::input(std::span<const float>(host), shape);
    const auto ask = [&] { return thrown_by<EngineError>([&] { (void)runner->run_to_arrays(std::array{a, b}); }); };
    CHECK(ask() == "input a begins at an address that is no multiple of 256, as the engine wants; give a copy");
    a = plainconv::input(std::span<const float>(host), shape, Memory::device);
    CHECK(ask() == "input a is not in GPU memory, as its Memory says; give it as Memory::host");
    api->free(odd - 32);
    CHECK(right(*runner, net, cuda, 1));
  }
  check_clean(*cuda);
}

TEST_CASE("a runner that is on the CPU refuses tensors in GPU memory") {
  const auto net = copying_network();
  std::array<float, 8> x{};
  std::array<float, 8> y{};
  const std::array<std::int64_t, 2> shape{2, 4};
  auto in = plainconv::input(std::span<const float>(x), shape);
  auto out = plainconv::output(std::span<float>(y), shape, Memory::device);
  const auto ask = [&] { return thrown_by<EngineError>([&] { net.run({&in, 1}, {&out, 1}); }); };
  CHECK(ask() == "output y is on the GPU, and this runner is on the CPU; copy it to the host");
  in.memory = Memory::device;
  CHECK(ask() == "input x is on the GPU, and this runner is on the CPU; copy it to the host");
  CHECK(thrown_by<EngineError>([&] { (void)net.run({&in, 1}); }) == ask());
}

TEST_CASE("any schedule gives what the network does, in whatever order its work runs") {
  std::mt19937 random(1);
  const auto below = [&](std::size_t most) { return random() % most; };
  for (int round = 0; round < 300; ++round) {
    SplitNetwork net;
    net.add_input("a");
    net.add_input("b");
    std::vector<std::pair<std::optional<std::string>, std::string>> values = {{std::nullopt, "a"}, {std::nullopt, "b"}};
    const std::size_t parts = 1 + below(6);
    const std::size_t devices = 1 + below(3);
    for (std::size_t at = 0; at < parts; ++at) {
      auto reads = values;
      std::ranges::shuffle(reads, random);
      reads.resize(1 + below(std::min<std::size_t>(reads.size(), 3)));
      const std::string name = "p" + std::to_string(at);
      std::vector<std::string> writes;
      for (std::size_t k = 0; k < 1 + below(2); ++k) {
        writes.push_back("v" + std::to_string(at) + std::to_string(k));
        values.emplace_back(name, writes.back());
      }
      net.add_part(name, static_cast<std::int64_t>(below(devices)), static_cast<std::int64_t>(below(2)), reads, writes);
    }
    for (const auto& [from, name] : values) {
      if (below(3) == 0 || net.manifest.outputs.empty()) {
        net.add_output(name, from);
      }
    }
    net.scratch = below(2) * 500;
    const bool is_captured = below(3) != 0;
    if (!is_captured) {
      net.refuses[below(parts)] = {"capture"};
    }
    if (below(2) == 0) {
      net.batches = {{1, 2}, {3, 4}};
    }
    const auto cuda = a_cuda(static_cast<unsigned>(round));
    std::vector<int> numbers;
    for (std::size_t i = 0; i < devices; ++i) {
      numbers.push_back(static_cast<int>(below(2) * i));
    }
    if (below(2) == 0) {
      cuda->peers.emplace();
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
          if (below(2) == 0) {
            cuda->peers->insert({i, j});
          }
        }
      }
    }
    {
      const auto runner = net.runner(numbers);
      const unsigned ends = 1U << (2 + net.manifest.outputs.size());
      const std::array<unsigned, 3> masks = {0, static_cast<unsigned>(below(ends)), ends - 1};
      for (int seed = 0; seed < 10; ++seed) {
        CHECK(called(*runner, net, cuda, static_cast<std::int64_t>(1 + 2 * below(2)), seed, masks.at(below(3)),
                     numbers[0])
                  .right());
      }
      CHECK((runner->why_not_captured().empty() || !is_captured));
    }
    check_clean(*cuda);
  }
}

TEST_CASE("peer access is enabled once each way; where there is none the host is between") {
  auto net = diamond();
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({0, 1});
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->count("reach") == 2);
  }
  cuda->peers = std::set<std::pair<int, int>>{{1, 0}};
  {
    const auto runner = net.runner({0, 1});
    cuda->calls.clear();
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->count("to peer") == 1);
    CHECK(cuda->count("to host") == 2);
  }
  cuda->peers.reset();
  cuda->fail["reach"] = 2;
  {
    const auto runner = net.runner({0, 1});
    cuda->calls.clear();
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->count("to peer") == 0);
  }
  {
    const auto runner = net.runner({2, 2});
    cuda->calls.clear();
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->count("to peer") + cuda->count("reach") + cuda->count("can_reach") == 0);
  }
  check_clean(*cuda);
}

TEST_CASE("engines that are not those of the split are refused") {
  auto net = diamond({});
  const auto cuda = a_cuda();
  const auto api = plainconv::cuda_runtime();
  const auto refuse = [&](std::size_t parts, std::vector<int> devices, const std::string& tensor) {
    return thrown_by<EngineError>([&] {
      std::vector<plainconv::PartEngine> made;
      auto other = net;
      for (std::size_t at = 0; at < parts; ++at) {
        if (at == 0) {
          other.split.parts[0].outputs = {{tensor, "float32", net.shape()}};
        }
        made.push_back(other.engine(*api, at, 0));
      }
      const plainconv::TensorRTRunner runner(api, net.manifest, net.split, std::move(devices), std::move(made), {},
                                             std::chrono::seconds(1));
    });
  };
  CHECK(contains(refuse(2, {0, 0}, "v0"), "they are p0, p1, wanted p0, p1, p2"));
  CHECK(contains(refuse(3, {0}, "v0"), "the plan uses 2 devices, 1 are given"));
  CHECK(contains(refuse(3, {0, 2}, "v0"), "p1 is on GPU 0, wanted GPU 2"));
  CHECK(refuse(3, {0, 0}, "v0") ==
        "the engine of part p0 has tensors ['a', 'v0'], its bundle says ['a', 'v0', 'v1']; build it again");
  check_clean(*cuda);
}

TEST_CASE("threads at the same time have lanes of their own, and each gets its own results") {
  for (const auto& [make, devices] : {std::pair{&whole, std::vector{1}}, std::pair{&diamond, std::vector{0, 1}}}) {
    auto net = make({{1, 4}});
    net.scratch = 500;
    const auto cuda = a_cuda();
    {
      const auto runner = net.runner(devices);
      std::atomic<int> wrong = 0;
      std::vector<std::thread> threads;
      for (int thread = 0; thread < 4; ++thread) {
        threads.emplace_back([&, thread] {
          for (int round = 0; round < 25; ++round) {
            wrong += right(*runner, net, cuda, 100 * thread + round, 1 + round % 4) ? 0 : 1;
          }
        });
      }
      for (auto& thread : threads) {
        thread.join();
      }
      CHECK(wrong == 0);
      CHECK(runner->lanes() >= 1);
      CHECK(runner->lanes() <= 4);
    }
    check_clean(*cuda);
  }
}

TEST_CASE("a second call begins while the first still runs") {
  auto net = diamond();
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({0, 1});
    std::thread first([&] { CHECK(right(*runner, net, cuda, 1)); });
    std::thread second([&] { CHECK(right(*runner, net, cuda, 2)); });
    first.join();
    second.join();
    cuda->calls.clear();
    cuda->hold = runner->lanes() == 2;
    std::thread third([&] { CHECK(right(*runner, net, cuda, 3, 1)); });
    std::thread fourth([&] { CHECK(right(*runner, net, cuda, 4, 3)); });
    while (cuda->hold) {
      const std::scoped_lock lock(cuda->mutex);
      cuda->hold = cuda->count("execute") < 6;
    }
    third.join();
    fourth.join();
  }
  check_clean(*cuda);
}

TEST_CASE("a thread that uses another GPU does so again afterwards") {
  auto net = diamond();
  const auto cuda = a_cuda();
  cuda->device() = 5;
  {
    const auto runner = net.runner({0, 1});
    CHECK(cuda->device() == 5);
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->device() == 5);
    net.engines[1]->refuses = {"execute"};
    CHECK_FALSE(refused(*runner, net, cuda).empty());
    CHECK(cuda->device() == 5);
  }
  CHECK(cuda->device() == 5);
  check_clean(*cuda);
}

TEST_CASE("results come as new arrays where their shape is not known before") {
  auto net = diamond();
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({0, 1});
    const auto a = values_of(3, 1);
    const auto b = values_of(3, 2);
    const std::array<std::int64_t, 2> shape{3, row};
    const auto arrays = runner->run_to_arrays(std::array{plainconv::input(std::span<const float>(a), shape),
                                                         plainconv::input(std::span<const float>(b), shape)});
    const auto wanted = net.reference({a, b})[0];
    CHECK(arrays.at(0).shape == std::vector<std::int64_t>{3, row});
    CHECK(std::memcmp(arrays[0].bytes.data(), wanted.data(), arrays[0].bytes.size()) == 0);
  }
  check_clean(*cuda);
}
