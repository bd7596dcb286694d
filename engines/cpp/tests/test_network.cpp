#include <doctest/doctest.h>

#include <thread>

#include "doubles.hpp"

namespace {

/// An input of zeros and ones for a network whose shapes are fixed but for the batch.
plainconv::Array array_for(const plainconv::TensorSpec& spec, std::int64_t batch, float value) {
  plainconv::Array array{spec.dtype, {}, {}};
  std::size_t count = 1;
  for (const auto& axis : spec.shape) {
    const auto* fixed = std::get_if<std::int64_t>(&axis);
    array.shape.push_back(fixed != nullptr ? *fixed : batch);
    count *= static_cast<std::size_t>(array.shape.back());
  }
  const std::vector<float> values(count, value);
  const auto bytes = std::as_bytes(std::span(values));
  array.bytes.assign(bytes.begin(), bytes.end());
  return array;
}

std::vector<std::byte> result_of(const plainconv::Network& net, float value) {
  const auto input = array_for(net.inputs()[0], 1, value);
  const plainconv::ConstTensor view{input.dtype, input.shape, input.bytes};
  return net.run({&view, 1}).at(0).bytes;
}

}  // namespace

TEST_CASE("options that no machine could follow are refused before the bundle is read") {
  const auto refused = [](const plainconv::Options& options) {
    return thrown_by<plainconv::EngineError>([&] { (void)plainconv::open("no such folder", options); });
  };
  CHECK(contains(refused({.threads = -1}), "threads is -1; wanted 0"));
  CHECK(contains(refused({.device = -1}), "device is -1; wanted 0"));
  CHECK(contains(refused({.devices = {0, -2}}), "device -2 is given"));
  CHECK(contains(refused({.timeout = std::chrono::seconds(0)}), "timeout is 0.0; wanted"));
  CHECK(contains(refused({.backend = "abacus"}), "unknown backend 'abacus'; wanted one of auto"));
}

TEST_CASE("many threads at once get what one gets, whole and in parts") {
  for (const char* name : {"whole", "split"}) {
    const auto folder = given_bundle(name);
    if (!folder) {
      return;
    }
    const bool in_parts = std::string(name) == "split";
    const auto net = plainconv::open(
        *folder, {.devices = in_parts ? std::vector<int>(4, 0) : std::vector<int>{}, .threads = 1});
    std::vector<std::vector<std::byte>> wanted;
    for (int i = 0; i < 3; ++i) {
      wanted.push_back(result_of(net, static_cast<float>(i)));
    }
    CHECK(wanted[0] != wanted[1]);
    std::vector<int> wrong(3, 0);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < wrong.size(); ++i) {
      threads.emplace_back([&, i] {
        for (int round = 0; round < 20; ++round) {
          wrong[i] += result_of(net, static_cast<float>(i)) == wanted[i] ? 0 : 1;
        }
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    CHECK(wrong == std::vector<int>(3, 0));
  }
}

TEST_CASE("a bundle without what was asked for says what it has") {
  const auto folder = given_bundle("whole");
  if (!folder) {
    return;
  }
  const auto refused = [&](const plainconv::Options& options) {
    return thrown_by<plainconv::EngineError>([&] { (void)plainconv::open(*folder, options); });
  };
  CHECK(contains(refused({.precision = "int4"}), "there is no int4 graph in the bundle, which has fp32"));
  CHECK(contains(refused({.devices = {0, 0}}), "holds no split; make one with `exporter split`"));
  CHECK(contains(refused({.devices = {1}}), "device 1 is given, ONNX Runtime here runs on the CPU"));
  CHECK(contains(refused({.device = 1}), "device 1 is given, ONNX Runtime here runs on the CPU"));
}
