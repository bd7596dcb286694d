// ONNX Runtime's sessions and values. Only the files of this backend include its headers.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cores.hpp"
#include "plainconv/bundle.hpp"

namespace plainconv {

/// An ONNX file, loaded. Any number of threads may run it at once.
class OnnxSession {
 public:
  /// `inputs` and `outputs` are what the manifest says of the file, `cores` where the threads it starts are bound to
  /// (empty: nowhere). Throws EngineError where ONNX Runtime refuses it, or it reads or makes something else.
  OnnxSession(const Bundle& bundle, const std::string& file, std::vector<TensorSpec> inputs,
              std::vector<TensorSpec> outputs, int threads, const Cores& cores);

  /// Run once; an output that is null is made. Throws EngineError with ONNX Runtime's reason.
  void run(const Ort::RunOptions& options, std::span<const OrtValue* const> inputs, std::span<OrtValue*> outputs) const;

  [[nodiscard]] const std::vector<TensorSpec>& inputs() const noexcept { return inputs_; }
  [[nodiscard]] const std::vector<TensorSpec>& outputs() const noexcept { return outputs_; }

 private:
  void check_names(const std::string& file) const;

  std::vector<TensorSpec> inputs_;
  std::vector<TensorSpec> outputs_;
  std::vector<const char*> input_names_;
  std::vector<const char*> output_names_;
  std::shared_ptr<Ort::Env> env_;
  Ort::Session session_{nullptr};
};

/// The caller's memory as a value. It is kept from call to call: the same memory and shape need nothing new.
class BoundValue {
 public:
  /// Lives until the next call.
  OrtValue* of(DType dtype, std::span<const std::int64_t> shape, std::span<const std::byte> bytes);

 private:
  const std::byte* data_ = nullptr;
  std::vector<std::int64_t> shape_;
  Ort::Value value_{nullptr};
};

/// What a value of ONNX Runtime's holds, copied.
[[nodiscard]] Array array_of(const Ort::Value& value, DType dtype);

}  // namespace plainconv
