// What a call takes from the heap beyond what ONNX Runtime does: nothing, whole and in parts.
#include <doctest/doctest.h>

#include <atomic>
#include <memory>

#include "allocations.hpp"
#include "doubles.hpp"
#include "onnxruntime/session.hpp"

#ifndef PLAINCONV_SANITIZED

namespace {

using plainconv::Array;
using plainconv::ConstTensor;
using plainconv::Tensor;

std::vector<Array> arrays_of(std::span<const plainconv::TensorSpec> specs) {
  std::vector<Array> arrays;
  for (const auto& spec : specs) {
    Array array{spec.dtype, {}, {}};
    std::size_t bytes = size_of(spec.dtype);
    for (const auto& axis : spec.shape) {
      const auto* fixed = std::get_if<std::int64_t>(&axis);
      array.shape.push_back(fixed == nullptr ? 1 : *fixed);
      bytes *= static_cast<std::size_t>(array.shape.back());
    }
    array.bytes.resize(bytes);
    arrays.push_back(std::move(array));
  }
  return arrays;
}

/// An ONNX file that ONNX Runtime runs on memory of its own, the values made once.
class RawRun {
 public:
  RawRun(const plainconv::Bundle& bundle, const std::string& file, const std::vector<plainconv::TensorRecord>& inputs,
         const std::vector<plainconv::TensorRecord>& outputs)
      : session_(bundle, file, plainconv::specs_of(inputs), plainconv::specs_of(outputs), 1, {}),
        inputs_(arrays_of(session_.inputs())),
        outputs_(arrays_of(session_.outputs())),
        bound_inputs_(inputs_.size()),
        bound_outputs_(outputs_.size()) {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      reads_.push_back(bound_inputs_[i].of(inputs_[i].dtype, inputs_[i].shape, inputs_[i].bytes));
    }
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      makes_.push_back(bound_outputs_[i].of(outputs_[i].dtype, outputs_[i].shape, outputs_[i].bytes));
    }
  }

  void run() { session_.run(none_, reads_, makes_); }

 private:
  plainconv::OnnxSession session_;
  std::vector<Array> inputs_;
  std::vector<Array> outputs_;
  std::vector<plainconv::BoundValue> bound_inputs_;
  std::vector<plainconv::BoundValue> bound_outputs_;
  std::vector<const OrtValue*> reads_;
  std::vector<OrtValue*> makes_;
  Ort::RunOptions none_{nullptr};
};

}  // namespace

TEST_CASE("by ONNX Runtime, a call takes from the heap what ONNX Runtime's own calls take, and no more") {
  for (const char* name : {"whole", "split"}) {
    const auto folder = given_bundle(name);
    if (!folder) {
      return;
    }
    const auto bundle = plainconv::Bundle::open(*folder);
    std::vector<std::unique_ptr<RawRun>> raw;
    std::vector<int> devices;
    if (bundle.manifest.splits.empty()) {
      raw.push_back(std::make_unique<RawRun>(bundle, "model.onnx", bundle.manifest.inputs, bundle.manifest.outputs));
    } else {
      const auto& split = bundle.manifest.splits.front();
      devices.resize(static_cast<std::size_t>(split.devices));
      for (const auto& part : split.parts) {
        raw.push_back(std::make_unique<RawRun>(bundle, part.file, part.inputs, part.outputs));
      }
    }
    const auto net = plainconv::open(*folder, {.backend = "onnxruntime", .devices = devices, .threads = 1});
    const auto inputs = arrays_of(net.inputs());
    auto outputs = arrays_of(net.outputs());
    std::vector<ConstTensor> reads;
    std::vector<Tensor> makes;
    reads.reserve(inputs.size());
    makes.reserve(outputs.size());
    for (const Array& array : inputs) {
      reads.push_back({array.dtype, array.shape, array.bytes});
    }
    for (Array& array : outputs) {
      makes.push_back({array.dtype, array.shape, array.bytes});
    }
    const auto run = [&] { net.run(reads, makes); };
    const auto run_raw = [&] {
      for (const auto& each : raw) {
        each->run();
      }
    };
    for (int i = 0; i < 3; ++i) {
      run();
      run_raw();
    }
    const std::size_t wanted = allocations_of(run_raw);
    CHECK(wanted > 0);                              // that ONNX Runtime's are counted
    const std::size_t first = allocations_of(run);  // fewer, where a part reads what ONNX Runtime itself has made
    CHECK(first <= wanted);
    for (int i = 0; i < 10; ++i) {
      CHECK(allocations_of(run) == first);
    }
  }
}

#endif
