// Which engine of a bundle is loaded, on which device and in which thread, on stand-ins.
#include "machine.hpp"

#include <doctest/doctest.h>

#include "tensorrt/backend.hpp"
#include "tensorrt/log.hpp"
#include "text.hpp"

using plainconv::EngineError;
using plainconv::EngineRecord;

TEST_CASE("an engine is loaded, and runs, on the GPU that is asked for, whatever thread asks") {
  for (const int device : {0, 2}) {
    Machine machine(small());
    machine.add("e", "fp16");
    {
      auto loaded = machine.load({.device = device});
      REQUIRE(loaded.has_value());
      CHECK(loaded->precision == "fp16");
      CHECK(machine.device_of["e"] == device);
      CHECK(called(*loaded->runner, machine.net, machine.cuda, 2, 1, 3, device).right());
      CHECK(machine.said.empty());
    }
    check_clean(*machine.cuda);
  }
}

TEST_CASE("an engine that does not load makes room for the next, and each reason is told once") {
  const std::string broken = plainconv::text(plainconv::tensorrt_name, " ", plainconv::runtime_version(),
                                             " cannot load the engine: ", plainconv::why_not_loaded({}));
  Machine machine(small());
  for (const auto& [file, precision] : {std::pair{"a", "int8"}, {"b", "int8"}, {"c", "fp16"}}) {
    machine.add(file, precision, "sm80", true);
  }
  machine.add("d", "fp16", "sm90");
  machine.add("e", "fp16");
  {
    const auto loaded = machine.load();
    REQUIRE(loaded.has_value());
    CHECK(loaded->precision == "fp16");
    CHECK(machine.said == std::vector<std::string>{"a, b, c cannot run here: " + broken + "; e runs instead"});
  }
  machine.said.clear();
  machine.bundle.manifest.engines.pop_back();
  machine.add("e", "fp16", "sm80", true);
  CHECK_FALSE(machine.load().has_value());
  CHECK(machine.said.empty());
  CHECK(machine.reasons.lines() ==
        std::vector<std::string>{"a, b, c, e cannot run here: " + broken,
                                 "d cannot run here: it is for sm90, the A here is sm80; build it for that"});
  check_clean(*machine.cuda);
}

TEST_CASE("an engine for another GPU is spoken of only where what runs is slower") {
  Machine machine(small());
  machine.add("of another", "fp16", "sm90");
  machine.add("own", "fp16");
  machine.add("slow", "fp32", "sm90");
  CHECK(machine.load().has_value());
  CHECK(machine.said.empty());
  CHECK(machine.load({.device = 3})->precision == "fp16");
  machine.bundle.manifest.engines.erase(machine.bundle.manifest.engines.begin());
  CHECK(machine.said.empty());
  CHECK(machine.load({.device = 3})->precision == "fp32");
  CHECK(machine.said ==
        std::vector<std::string>{"own cannot run here: it is for sm80, the A here is sm90; build it for that; "
                                 "slow runs instead"});
  CHECK_FALSE(machine.load({.device = 4}).has_value());
  CHECK(machine.reasons.lines() == std::vector<std::string>{"own, slow cannot run here: no such GPU"});
}

TEST_CASE("engines of other runtimes are passed over") {
  Machine machine(small());
  EngineRecord other;
  other.file = "other";
  other.backend = "tensorrt";
  other.precision = "fp32";
  machine.add_file(other);
  machine.bundle.manifest.engines.push_back(other);
  machine.add("e", "fp32");
  CHECK(machine.load().has_value());
  CHECK(machine.said ==
        std::vector<std::string>{
            "other cannot run here: this library was built without tensorrt; see engines/cpp/README.md on how to "
            "build it; e runs instead"});
  machine.said.clear();
  CHECK(machine.load({.backend = "tensorrt_rtx"}).has_value());
  CHECK(machine.said.empty());
}

TEST_CASE("the engine of each part is loaded on its GPU") {
  SplitNetwork net;
  net.batches = {};
  net.add_input("a");
  net.add_part("p0", 0, 0, {{std::nullopt, "a"}}, {"v"});
  net.add_part("p1", 1, 0, {{"p0", "v"}}, {"y"});
  net.add_output("y", "p1");
  net.split.precision = "fp32";
  for (auto& part : net.split.parts) {
    part.file = part.sha256 = part.name;
  }
  Machine machine(net);
  for (const auto& part : net.split.parts) {
    EngineRecord record;
    record.file = part.name;
    record.precision = "fp32";
    record.targets = {"sm80"};
    record.onnx_sha256 = part.sha256;
    machine.add_file(record);
    net.split.engines.push_back(record);
  }
  machine.bundle.manifest.splits = {net.split};
  {
    auto loaded = machine.load({.devices = {2, 1, 0}});
    REQUIRE(loaded.has_value());
    CHECK(machine.device_of == std::map<std::string, int>{{"p0", 2}, {"p1", 1}});
    CHECK(right(*loaded->runner, machine.net, machine.cuda, 1));
  }
  CHECK_FALSE(machine.load({.devices = {0, 3}}).has_value());
  CHECK(machine.reasons.lines() ==
        std::vector<std::string>{"the fp32 parts on tensorrt_rtx cannot run here: it is for sm80, the A here is sm90; "
                                 "build it for that"});
  CHECK(contains(thrown_by<EngineError>([&] {
                   (void)load_engines(machine.bundle, {.devices = {0}}, machine.here, machine.runtime, machine.reasons);
                 }),
                 "1 devices are given, the fp32 split is for 2"));
  check_clean(*machine.cuda);
}
