// Which engine of a bundle runs here.
#include <doctest/doctest.h>

#include "doubles.hpp"
#include "tensorrt/choice.hpp"

namespace {

using plainconv::CannotRunError;
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

TEST_CASE("the fastest engine that runs is taken, and the reason of the fastest that does not is told") {
  plainconv::Bundle bundle;
  bundle.folder = "out/net";
  const auto refused = [&](const std::string& precision) {
    return thrown_by<CannotRunError>([&] { (void)engine_for(bundle, precision, 0, here()); });
  };
  CHECK(refused("auto") ==
        "out/net holds no tensorrt_rtx engine; build one with `exporter build --engine tensorrt_rtx`");
  CHECK(refused("int8") ==
        "out/net holds no tensorrt_rtx int8 engine; build one with `exporter build --engine "
        "tensorrt_rtx --precision int8`");
  bundle.manifest.engines = {record("a", "fp32"), record("b", "fp16"), record("c", "int8"), record("d", "int8")};
  bundle.manifest.engines[2].backend = "tensorrt";
  CHECK(engine_for(bundle, "auto", 0, here()).file == "d");
  CHECK(engine_for(bundle, "fp32", 0, here()).file == "a");
  bundle.manifest.engines[3].targets = {"sm90"};
  CHECK(engine_for(bundle, "auto", 0, here()).file == "b");
  CHECK(refused("int8") == "d cannot run here: it is for sm90, the NVIDIA A100 here is sm80; build it for that");
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
  split.engines = {record("a1", "fp16", "one"), record("b1", "fp16", "one"), record("a2", "fp16", "two")};
  split.engines[0].options = split.engines[2].options = {{"workspace", 1}};
  const plainconv::ShapeRange range{{1}, {2}, {4}};
  split.engines[0].profiles = {{{"x", range}}};
  split.engines[2].profiles = {{{"v", range}, {"y", range}}};
  bundle.manifest.splits = {split};
  const std::vector<int> same = {0, 0};
  const auto chosen = engines_for(bundle, "auto", same, here());
  CHECK(chosen.engines.size() == 2);
  CHECK(chosen.engines[0]->file == "a1");
  CHECK(chosen.engines[1]->file == "a2");
  const auto profiles = profiles_of(chosen);
  CHECK(profiles.size() == 1);
  CHECK(profiles[0].size() == 2);
  CHECK(profiles[0][0].first == "x");
  CHECK(profiles[0][1].first == "y");
  const std::vector<int> other = {0, 1};
  const auto refused = [&](const std::string& precision) {
    return thrown_by<CannotRunError>([&] { (void)engines_for(bundle, precision, other, here()); });
  };
  CHECK(refused("auto") ==
        "the fp16 parts cannot run on tensorrt_rtx here: it is for sm80, the NVIDIA A100 here is "
        "sm86; build it for that");
  CHECK(refused("fp32") == "out/net holds no tensorrt_rtx engines of its parts; build them with `exporter build`");
}
