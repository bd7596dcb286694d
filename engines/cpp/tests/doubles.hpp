// What the tests share: errors as text, a runtime that is none, and bundles that a test is given.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

#include "backends.hpp"
#include "bundle/reader.hpp"

/// What `act` throws of type E; empty where it throws nothing.
template <class E, class F>
std::string thrown_by(F act) {
  try {
    act();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A runtime that gives as the first output the bytes of the first input.
class CopyingRunner : public plainconv::Runner {
 public:
  void run(std::span<const plainconv::ConstTensor> inputs, std::span<const plainconv::Tensor> outputs) override {
    std::copy(inputs[0].bytes.begin(), inputs[0].bytes.end(), outputs[0].bytes.begin());
  }
  std::vector<plainconv::Array> run_to_arrays(std::span<const plainconv::ConstTensor> inputs) override {
    return {{inputs[0].dtype,
             {inputs[0].shape.begin(), inputs[0].shape.end()},
             {inputs[0].bytes.begin(), inputs[0].bytes.end()}}};
  }
};

/// A network `x float32[batch, 4] -> y float32[…]` on that runtime.
inline plainconv::Network copying_network(std::vector<plainconv::Axis> output = {std::string("batch"), 4}) {
  plainconv::Bundle bundle;
  bundle.manifest.name = "copy";
  bundle.manifest.inputs = {{"x", "float32", {std::string("batch"), 4}}};
  bundle.manifest.outputs = {{"y", "float32", std::move(output)}};
  return {bundle, "copying", "fp32", std::make_unique<CopyingRunner>()};
}

/// The folder of bundles that the caller made: whole, split. Nothing where the tests run by themselves.
inline std::optional<std::string> given_bundle(const std::string& name) {
  const char* folder = std::getenv("PLAINCONV_TEST_BUNDLES");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return folder == nullptr ? std::nullopt : std::optional(std::string(folder) + "/" + name);
}
