#include <algorithm>

#include "onnxruntime/backend.hpp"
#include "onnxruntime/session.hpp"
#include "pool.hpp"
#include "split_choice.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

/// What one call needs of values.
struct Buffers {
  Buffers(std::size_t inputs, std::size_t outputs)
      : bound_inputs(inputs), bound_outputs(outputs), reads(inputs), makes(outputs) {}

  std::vector<BoundValue> bound_inputs;
  std::vector<BoundValue> bound_outputs;
  std::vector<const OrtValue*> reads;
  std::vector<OrtValue*> makes;
};

class WholeRunner : public Runner {
 public:
  explicit WholeRunner(std::unique_ptr<OnnxSession> session)
      : session_(std::move(session)),
        calls_([this] { return std::make_unique<Buffers>(session_->inputs().size(), session_->outputs().size()); }) {}

  void run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) override {
    const Pool<Buffers>::Lease call(calls_);
    bind(*call, inputs);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      call->makes[i] = call->bound_outputs[i].of(outputs[i].dtype, outputs[i].shape, outputs[i].bytes);
    }
    session_->run(none_, call->reads, call->makes);
  }

  std::vector<Array> run_to_arrays(std::span<const ConstTensor> inputs) override {
    const Pool<Buffers>::Lease call(calls_);
    bind(*call, inputs);
    std::vector<OrtValue*> made(session_->outputs().size());
    session_->run(none_, call->reads, made);
    std::vector<Ort::Value> values;
    values.reserve(made.size());
    for (OrtValue* value : made) {
      values.emplace_back(value);
    }
    std::vector<Array> arrays;
    for (std::size_t i = 0; i < values.size(); ++i) {
      arrays.push_back(array_of(values[i], session_->outputs()[i].dtype));
    }
    return arrays;
  }

 private:
  static void bind(Buffers& call, std::span<const ConstTensor> inputs) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      call.reads[i] = call.bound_inputs[i].of(inputs[i].dtype, inputs[i].shape, inputs[i].bytes);
    }
  }

  std::unique_ptr<OnnxSession> session_;
  Ort::RunOptions none_{nullptr};
  Pool<Buffers> calls_;
};

std::unique_ptr<Runner> whole(const Bundle& bundle, const std::string& precision, const Options& options) {
  if (options.device != 0) {
    throw EngineError(text("device ", options.device, " is given, ONNX Runtime here runs on the CPU; leave it out"));
  }
  try {
    return std::make_unique<WholeRunner>(
        std::make_unique<OnnxSession>(bundle, bundle.graph_on_cpu(precision), specs_of(bundle.manifest.inputs),
                                      specs_of(bundle.manifest.outputs), options.threads, Cores{}));
  } catch (const EngineError& error) {
    if (precision == "fp32") {
      throw;
    }
    throw EngineError(
        text("ONNX Runtime may lack ", precision, " here: ", error.what(), ", or load another precision"));
  }
}

}  // namespace

std::optional<Loaded> load_by_onnxruntime(const Bundle& bundle, const Options& options, Reasons& reasons) {
  reasons.say(options.warn, "ONNX Runtime");
  if (options.devices.empty()) {
    const std::string precision = options.precision == "auto" ? "fp32" : options.precision;
    return Loaded{whole(bundle, precision, options), precision};
  }
  const auto splits = splits_for(bundle, options);
  const auto found = std::ranges::find(splits, "fp32", [](const SplitRecord* split) { return split->precision; });
  const SplitRecord& split = found == splits.end() ? *splits.front() : **found;
  return Loaded{split_by_onnxruntime(bundle, split, options), split.precision};
}

}  // namespace plainconv
