// Which engine of a bundle is loaded, on which device and in which thread, on doubles.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "bundle/sha256.hpp"
#include "recording_calls.hpp"
#include "tensorrt/loading.hpp"

namespace {

using plainconv::Bundle;
using plainconv::EngineError;
using plainconv::EngineRecord;
using plainconv::Loaded;
using plainconv::Options;
using plainconv::Reasons;

/// A bundle of a whole network with engines, and what loads them: GPUs 0 to 3 of "sm80", but 3, which is "sm90".
class Machine {
 public:
  Machine() {
    std::string name = (std::filesystem::temp_directory_path() / "plainconv-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    bundle.folder = name;
    bundle.manifest = net.manifest;
    here.gpu = [](int number) {
      return number > 3 ? throw EngineError("no such GPU") : plainconv::Gpu{"A", number == 3 ? "sm90" : "sm80"};
    };
    runtime.cuda = [this] { return cuda; };
    runtime.engine = [this](std::string_view bytes, std::string_view file) { return engine_of(bytes, file); };
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  Machine(Machine&&) = delete;
  Machine& operator=(Machine&&) = delete;
  ~Machine() { std::filesystem::remove_all(bundle.folder); }

  void add_file(EngineRecord& record) {
    record.backend = record.backend.empty() ? "tensorrt_rtx" : record.backend;
    record.backend_version = here.version;
    record.sha256 = plainconv::sha256_of(record.file);
    bundle.manifest.files[record.file] = {static_cast<std::int64_t>(record.file.size()), record.sha256};
    std::ofstream(bundle.folder / record.file) << record.file;
  }
  void add(const std::string& file, const std::string& precision, const std::string& target = "sm80") {
    EngineRecord record;
    record.file = file;
    record.precision = precision;
    record.targets = {target};
    add_file(record);
    bundle.manifest.engines.push_back(record);
  }
  /// What is loaded, in a thread that has used no GPU before.
  std::optional<Loaded> load(Options options = {}) {
    options.warn = [this](const std::string& line) { said.push_back(line); };
    std::optional<Loaded> loaded;
    reasons = {};
    std::thread([&] { loaded = load_engines(bundle, options, here, runtime, reasons); }).join();
    return loaded;
  }

  RecordedNetwork net = whole();
  Bundle bundle;
  plainconv::Here here{.backend = "tensorrt_rtx", .version = "1.7"};
  plainconv::EngineRuntime runtime;
  std::shared_ptr<RecordingCuda> cuda = a_cuda();
  std::set<std::string> refused;
  std::map<std::string, std::string> notes;
  std::map<std::string, int> device_of;  // in use while an engine was loaded
  std::vector<std::string> said;
  Reasons reasons;

 private:
  class Noted : public RecordingEngine {
   public:
    Noted(std::shared_ptr<RecordingCuda> cuda, std::shared_ptr<EngineFacts> facts, std::string note)
        : RecordingEngine(std::move(cuda), std::move(facts)), note_(std::move(note)) {}
    [[nodiscard]] std::string_view note() const override { return note_; }

   private:
    std::string note_;
  };

  std::unique_ptr<plainconv::Engine> engine_of(std::string_view bytes, std::string_view file) {
    const std::string name(file);
    CHECK(bytes == file);
    device_of[name] = cuda->device();
    if (refused.contains(name)) {
      throw EngineError(name + " cannot run here: it is broken");
    }
    auto facts = std::make_shared<EngineFacts>();
    facts->device = cuda->device();
    const auto named = std::ranges::find(net.split.parts, name, &plainconv::PartRecord::file);
    const auto& part = named == net.split.parts.end() ? net.split.parts.front() : *named;
    facts->part = static_cast<std::size_t>(&part - net.split.parts.data());
    std::ranges::transform(part.inputs, std::back_inserter(facts->ins), &plainconv::TensorRecord::name);
    std::ranges::transform(part.outputs, std::back_inserter(facts->outs), &plainconv::TensorRecord::name);
    return std::make_unique<Noted>(cuda, facts, notes[name]);
  }
};

/// The network of fixed batch 2, as engines without profiles want it.
void fix_shapes(Machine& machine, RecordedNetwork net) {
  machine.net = std::move(net);
  machine.bundle.manifest.inputs = machine.net.manifest.inputs;
  machine.bundle.manifest.outputs = machine.net.manifest.outputs;
}

RecordedNetwork fixed_whole() {
  RecordedNetwork net;
  net.batches = {};
  net.add_input("a");
  net.manifest.outputs = {{"y", "float32", net.shape()}};
  net.split = plainconv::whole_of(net.manifest, "fp32");
  return net;
}

}  // namespace

TEST_CASE("an engine is loaded, and runs, on the GPU that is asked for, whatever thread asks") {
  for (const int device : {0, 2}) {
    Machine machine;
    fix_shapes(machine, fixed_whole());
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
  Machine machine;
  fix_shapes(machine, fixed_whole());
  machine.add("a", "int8");
  machine.add("b", "int8");
  machine.add("c", "fp16");
  machine.add("d", "fp16", "sm90");
  machine.add("e", "fp16");
  machine.refused = {"a", "b", "c"};
  {
    const auto loaded = machine.load();
    REQUIRE(loaded.has_value());
    CHECK(loaded->precision == "fp16");
    CHECK(machine.said == std::vector<std::string>{"a, b, c cannot run here: it is broken; e runs instead"});
  }
  machine.said.clear();
  machine.refused.insert("e");
  CHECK_FALSE(machine.load().has_value());
  CHECK(machine.said.empty());
  CHECK(machine.reasons.lines() ==
        std::vector<std::string>{"a, b, c, e cannot run here: it is broken",
                                 "d cannot run here: it is for sm90, the A here is sm80; build it for that"});
  check_clean(*machine.cuda);
}

TEST_CASE("an engine for another GPU is spoken of only where what runs is slower") {
  Machine machine;
  fix_shapes(machine, fixed_whole());
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

TEST_CASE("what could be better about an engine is told, and engines of other runtimes are passed over") {
  Machine machine;
  fix_shapes(machine, fixed_whole());
  EngineRecord other;
  other.file = "other";
  other.backend = "tensorrt";
  other.precision = "fp32";
  machine.add_file(other);
  machine.bundle.manifest.engines.push_back(other);
  machine.add("e", "fp32");
  machine.notes["e"] = "it is old";
  CHECK(machine.load().has_value());
  CHECK(machine.said ==
        std::vector<std::string>{
            "e: it is old",
            "other cannot run here: this library was built without tensorrt; see engines/cpp/README.md on how to "
            "build it; e runs instead"});
  machine.said.clear();
  CHECK(machine.load({.backend = "tensorrt_rtx"}).has_value());
  CHECK(machine.said == std::vector<std::string>{"e: it is old"});
}

TEST_CASE("the engine of each part is loaded on its GPU") {
  Machine machine;
  RecordedNetwork net;
  net.batches = {};
  net.add_input("a");
  net.add_part("p0", 0, 0, {{std::nullopt, "a"}}, {"v"});
  net.add_part("p1", 1, 0, {{"p0", "v"}}, {"y"});
  net.add_output("y", "p1");
  net.split.precision = "fp32";
  for (std::size_t at = 0; at < 2; ++at) {
    auto& part = net.split.parts[at];
    part.file = part.sha256 = part.name;  // by which the double knows whose engine it is
    EngineRecord record;
    record.file = part.name;
    record.precision = "fp32";
    record.targets = {"sm80"};
    record.onnx_sha256 = part.sha256;
    machine.add_file(record);
    net.split.engines.push_back(record);
  }
  machine.bundle.manifest.splits = {net.split};
  fix_shapes(machine, net);
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
