// Which engine of a bundle runs here.
#include <doctest/doctest.h>

#include "doubles.hpp"
#include "tensorrt/choice.hpp"

namespace {

using plainconv::EngineRecord;

plainconv::Here here() {
  return {.backend = "tensorrt_rtx", .version = "1.7", .gpu = [](int number) {
            return plainconv::Gpu{"NVIDIA A100", number == 0 ? "sm80" : "sm86"};
          }};
}

EngineRecord record(const std::string& file, const std::string& precision, const std::string& onnx = "") {
  EngineRecord made;
  made.file = file;
  made.backend = "tensorrt_rtx";
  made.backend_version = "1.7";
  made.precision = precision;
  made.targets = {"sm80"};
  made.onnx_sha256 = onnx;
  return made;
}

}  // namespace

TEST_CASE("an engine of another version, target or device is refused with what to do") {
  auto engine = record("e", "fp32");
  CHECK(plainconv::why_not_run(engine, 0, here()) == std::nullopt);
  CHECK(plainconv::why_not_run(engine, 1, here()) == "it is for sm80, the NVIDIA A100 here is sm86; build it for that");
  engine.device = "NVIDIA H100";
  CHECK(plainconv::why_not_run(engine, 0, here()) ==
        "it is for an NVIDIA H100, here is an NVIDIA A100; build it again with `exporter build`");
  engine.backend_version = "1.6";
  CHECK(plainconv::why_not_run(engine, 0, here()) ==
        "it was built by tensorrt_rtx 1.6, here is 1.7; build it again with `exporter build`");
  auto nowhere = here();
  nowhere.gpu = [](int /*number*/) -> plainconv::Gpu { throw plainconv::EngineError("no GPU"); };
  CHECK(plainconv::why_not_run(engine, 0, nowhere) == "no GPU");
}

TEST_CASE("an engine of a runtime that this library was built without says so") {
  auto nothing = here();
  nothing.backend = nothing.version = "";
  CHECK(plainconv::why_not_run(record("e", "fp32"), 0, nothing) ==
        "this library was built without tensorrt_rtx; see engines/cpp/README.md on how to build it");
}

TEST_CASE("of the engines that are asked for the fastest come first") {
  plainconv::Bundle bundle;
  bundle.folder = "out/net";
  bundle.manifest.engines = {record("a", "fp32"), record("b", "fp16"), record("c", "fp32"), record("d", "int8")};
  bundle.manifest.engines[2].backend = "tensorrt";
  const auto files = [&](const plainconv::Options& options) {
    std::string all;
    for (const EngineRecord* each : engines_for(bundle, options)) {
      all += each->file;
    }
    return all;
  };
  CHECK(files({}) == "cdba");
  CHECK(files({.backend = "tensorrt_rtx"}) == "dba");
  CHECK(files({.precision = "fp32"}) == "ca");
  CHECK(files({.backend = "tensorrt", .precision = "fp16"}) == "");
}

TEST_CASE("where no engine runs, the first reason is told, or that there is none") {
  plainconv::Bundle bundle;
  bundle.folder = "out/net";
  plainconv::Reasons none;
  const auto why = [&](const plainconv::Options& options) {
    return why_none_runs(bundle, options, "tensorrt_rtx", none);
  };
  CHECK(why({}) == "out/net holds no tensorrt_rtx engine; build one with `exporter build --engine tensorrt_rtx`");
  CHECK(why({.precision = "int8"}) ==
        "out/net holds no tensorrt_rtx int8 engine; build one with `exporter build --engine "
        "tensorrt_rtx --precision int8`");
  CHECK(why({.devices = {0, 1}}) ==
        "out/net holds no tensorrt_rtx engines of its parts; build them with `exporter build`");
  none.add("no GPU", "e");
  CHECK(why({}) == "e cannot run here: no GPU");
}

TEST_CASE("of a split, engines are taken that were built alike, one for each part") {
  plainconv::Bundle bundle;
  bundle.folder = "out/net";
  plainconv::SplitRecord split;
  split.precision = "fp16";
  split.devices = 2;
  split.parts.resize(2);
  split.parts[0].name = "p0";
  split.parts[0].sha256 = "one";
  split.parts[0].sources = {{"x", std::nullopt}};
  split.parts[1].name = "p1";
  split.parts[1].sha256 = "two";
  split.parts[1].device = 1;
  split.parts[1].sources = {{"v", "p0"}, {"y", std::nullopt}};
  split.engines = {record("a1", "fp16", "one"), record("b1", "fp16", "one"), record("a2", "fp16", "two"),
                   record("c2", "fp16", "two")};
  split.engines[0].options = split.engines[2].options = {{"workspace", 1}};
  split.engines[3].backend = "tensorrt";
  const plainconv::ShapeRange range{{1}, {2}, {4}};
  split.engines[0].profiles = {{{"x", range}}};
  split.engines[2].profiles = {{{"v", range}, {"y", range}}};
  bundle.manifest.splits = {split};
  const auto sets = sets_for(bundle, {.devices = {0, 0}});
  REQUIRE(sets.size() == 1);
  const auto& chosen = sets[0];
  CHECK(chosen.engines.size() == 2);
  CHECK(chosen.engines[0]->file == "a1");
  CHECK(chosen.engines[1]->file == "a2");
  const auto profiles = profiles_of(chosen);
  CHECK(profiles.size() == 1);
  CHECK(profiles[0].size() == 2);
  CHECK(profiles[0][0].first == "x");
  CHECK(profiles[0][1].first == "y");
  CHECK(sets_for(bundle, {.backend = "tensorrt", .devices = {0, 0}}).empty());
  const auto refused = [&](const plainconv::Options& options) {
    return thrown_by<plainconv::EngineError>([&] { (void)sets_for(bundle, options); });
  };
  CHECK(refused({.precision = "fp32", .devices = {0, 0}}) ==
        "out/net holds no fp32 split; make one with `exporter split`");
  CHECK(refused({.device = 1, .devices = {0, 0}}) == "device 1 is given beside devices; give one of them");
}
