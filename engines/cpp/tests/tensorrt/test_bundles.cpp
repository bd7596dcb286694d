// Bundles of real networks, whose graphs are the engines of stand-ins, give what ONNX Runtime gives.
#include <doctest/doctest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "calls.hpp"
#include "tensorrt/backend.hpp"
#include "tensorrt/loading.hpp"
#include "text.hpp"

namespace {

using plainconv::Bundle;
using plainconv::EngineRecord;

/// An engine whose file is the graph itself.
EngineRecord engine_of_graph(const std::string& file, const std::string& sha256, const plainconv::EngineProfiles& all) {
  EngineRecord record;
  record.file = file;
  record.backend = plainconv::tensorrt_name;
  record.backend_version = plainconv::runtime_version();
  record.precision = "fp32";
  record.targets = {"sm86"};
  record.onnx_sha256 = record.sha256 = sha256;
  record.profiles = all;
  return record;
}

plainconv::Network opened(const Bundle& bundle, const plainconv::Options& options) {
  const plainconv::Here here{.backend = std::string(plainconv::tensorrt_name),
                             .version = plainconv::runtime_version(),
                             .gpu = [](int /*number*/) {
                               return plainconv::Gpu{"A", "sm86"};
                             }};
  const plainconv::EngineRuntime runtime{
      .cuda = plainconv::cuda_runtime, .engine = [&](std::string_view /*bytes*/, const plainconv::EngineUse& use) {
        std::vector<std::map<std::string, std::vector<std::vector<std::int64_t>>>> profiles;
        for (const auto& engine : bundle.manifest.engines) {
          for (const auto& profile : engine.profiles) {
            auto& made = profiles.emplace_back();
            for (const auto& [name, range] : profile) {
              made[name] = {range.min, range.opt, range.max};
            }
          }
        }
        const std::string model = (bundle.folder / use.name).string();
        auto told = use;
        told.kernels.reset();
        return plainconv::engine_of_bytes(nlohmann::json{{"model", model}, {"profiles", profiles}}.dump(), told);
      }};
  plainconv::Reasons reasons;
  auto loaded = load_engines(bundle, options, here, runtime, reasons);
  CAPTURE(plainconv::joined(reasons.lines(), "; "));
  REQUIRE(loaded.has_value());
  return {bundle, std::string(plainconv::tensorrt_name), loaded->precision, std::move(loaded->runner)};
}

/// What both give of the same numbers, again and again, is the same to the bit.
void check_alike(const plainconv::Network& found, const plainconv::Network& wanted,
                 const std::vector<std::int64_t>& batches) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 12; ++round) {
    std::vector<std::int64_t> shape;
    std::size_t size = 1;
    for (const auto& axis : found.inputs()[0].shape) {
      const auto* fixed = std::get_if<std::int64_t>(&axis);
      shape.push_back(fixed != nullptr ? *fixed : batches[static_cast<std::size_t>(round) % batches.size()]);
      size *= static_cast<std::size_t>(shape.back());
    }
    std::vector<float> values(size);
    std::ranges::generate(values, [&] { return normal(random); });
    const auto input = plainconv::input(std::span<const float>(values), shape);
    const auto all = found.run({&input, 1});
    const auto reference = wanted.run({&input, 1});
    REQUIRE(all.size() == reference.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      CHECK(all[i].shape == reference[i].shape);
      CHECK(all[i].bytes == reference[i].bytes);
    }
  }
}

}  // namespace

TEST_CASE("a whole network with a free batch" * doctest::skip(!given_bundle("whole"))) {
  Bundle bundle = Bundle::open(*given_bundle("whole"));
  const auto wanted = plainconv::open(*given_bundle("whole"), {.backend = "onnxruntime", .threads = 1});
  const auto& input = bundle.manifest.inputs.at(0);
  plainconv::ShapeRange range;
  for (const auto& axis : input.shape) {
    const auto* size = std::get_if<std::int64_t>(&axis);
    range.min.push_back(size == nullptr ? 1 : *size);
    range.max.push_back(size == nullptr ? 8 : *size);
  }
  range.opt = range.min;
  bundle.manifest.engines = {engine_of_graph("model.onnx", "", {{{input.name, range}}})};
  const auto cuda = a_cuda();
  {
    const auto net = opened(bundle, {.device = 1});
    check_alike(net, wanted, {1, 8, 3, 3});
  }
  check_clean(*cuda);
}

TEST_CASE("a network in parts on one to three GPUs" * doctest::skip(!given_bundle("split"))) {
  Bundle bundle = Bundle::open(*given_bundle("split"));
  auto& split = bundle.manifest.splits.at(0);
  const auto wanted = plainconv::open(
      *given_bundle("split"), {.backend = "onnxruntime", .devices = std::vector<int>(split.devices, 0), .threads = 1});
  for (const auto& part : split.parts) {
    split.engines.push_back(engine_of_graph(part.file, part.sha256, {}));
  }
  for (const auto& numbers : {std::vector{0, 0, 0}, {2, 0, 2}, {0, 1, 2}}) {
    const auto cuda = a_cuda(7);
    {
      const auto net = opened(bundle, {.devices = {numbers.begin(), numbers.begin() + split.devices}});
      check_alike(net, wanted, {1});
    }
    check_clean(*cuda);
  }
}
