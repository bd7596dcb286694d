// An ONNX file in ONNX Runtime, which is what engines of the stand-in for TensorRT compute.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

namespace standin {

using Shape = std::vector<std::int64_t>;

struct Tensor {
  std::string name;
  Shape shape;                    // -1 where an axis is free
  std::vector<std::string> axes;  // the names of those that are
  ONNXTensorElementDataType type;

  [[nodiscard]] std::size_t bytes_of(const Shape& known) const {
    const std::size_t element = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? 2
                                : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? 8
                                                                              : 4;
    return std::accumulate(known.begin(), known.end(), element,
                           [](std::size_t all, std::int64_t size) { return all * static_cast<std::size_t>(size); });
  }
};

struct Model {
  explicit Model(const std::string& path) : session(environment(), path.c_str(), options()) {
    const Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
      inputs.push_back(described(session.GetInputNameAllocated(i, allocator).get(), session.GetInputTypeInfo(i)));
    }
    for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
      outputs.push_back(described(session.GetOutputNameAllocated(i, allocator).get(), session.GetOutputTypeInfo(i)));
    }
  }
  static Tensor described(const char* name, const Ort::TypeInfo& type) {
    const auto info = type.GetTensorTypeAndShapeInfo();
    Tensor tensor{name, info.GetShape(), {}, info.GetElementType()};
    std::vector<const char*> symbols(tensor.shape.size());
    info.GetSymbolicDimensions(symbols.data(), symbols.size());
    tensor.axes.assign(symbols.begin(), symbols.end());
    return tensor;
  }
  static Ort::Env& environment() {
    static auto& env = *new Ort::Env(ORT_LOGGING_LEVEL_ERROR);  // NOLINT(cppcoreguidelines-*): for ever
    return env;
  }
  static Ort::SessionOptions options() {
    Ort::SessionOptions made;
    made.SetIntraOpNumThreads(1);
    return made;
  }
  static std::shared_ptr<Model> at(const std::string& path) {
    static auto& all = *new std::map<std::string, std::shared_ptr<Model>>;  // NOLINT(cppcoreguidelines-*)
    static std::mutex one_at_a_time;
    const std::scoped_lock held(one_at_a_time);
    auto& model = all[path];
    return model != nullptr ? model : model = std::make_shared<Model>(path);
  }

  /// Computes outputs from inputs in place: `at` is where a tensor is, `shapes` has those of them all.
  template <class At>
  void run(const At& at, const std::map<std::string, Shape>& shapes) {
    const auto host = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::array<std::vector<const char*>, 2> names;
    std::array<std::vector<Ort::Value>, 2> values;
    for (std::size_t end = 0; end < 2; ++end) {
      for (const Tensor& each : end == 0 ? inputs : outputs) {
        const Shape& shape = shapes.at(each.name);
        names.at(end).push_back(each.name.c_str());
        values.at(end).push_back(
            Ort::Value::CreateTensor(host, at(each), each.bytes_of(shape), shape.data(), shape.size(), each.type));
      }
    }
    session.Run(Ort::RunOptions(), names[0].data(), values[0].data(), values[0].size(), names[1].data(),
                values[1].data(), values[1].size());
  }

  Ort::Session session;
  std::vector<Tensor> inputs;
  std::vector<Tensor> outputs;
};

}  // namespace standin
