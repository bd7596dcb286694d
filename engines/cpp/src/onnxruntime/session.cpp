#include "onnxruntime/session.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "bundle/reader.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::array<ONNXTensorElementDataType, 10> types = {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,     ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,   ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
};

ONNXTensorElementDataType type_of(DType dtype) { return types.at(static_cast<std::size_t>(dtype)); }

/// What ONNX Runtime says, on one line, without where in its source it says so.
std::string words(std::string_view said) {
  constexpr std::string_view mark = "Status Message: ";
  if (const auto at = said.rfind(mark); at != std::string_view::npos) {
    said.remove_prefix(at + mark.size());
  }
  if (said.starts_with('/')) {  // FILE:LINE FUNCTION(…) const
    const auto open = said.find('(');
    const auto close = said.find(") ", std::min(open, said.size()));
    if (close != std::string_view::npos) {
      said.remove_prefix(close + 2);
      constexpr std::string_view qualifier = "const ";
      said.remove_prefix(said.starts_with(qualifier) ? qualifier.size() : 0);
    }
  }
  return one_line(said);
}

bool is_no_memory(std::string_view said) {
  const std::string low = lower(said);
  const std::array marks = {"allocate memory", "out of memory", "bad_alloc", "bad alloc", "badalloc"};
  return std::ranges::any_of(marks, [&](const char* mark) { return low.find(mark) != std::string::npos; });
}

/// The one environment of the process, for as long as a session needs it.
std::shared_ptr<Ort::Env> environment() {
  static const auto env = std::make_shared<Ort::Env>(ORT_LOGGING_LEVEL_FATAL, "plainconv");
  return env;
}

Ort::SessionOptions session_options(int threads, const Cores& cores) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // what is less comes back as an error, or nobody can mend it
  // Threads that spin between two runs slow down everything else on the machine, other sessions above all.
  options.AddConfigEntry("session.intra_op.allow_spinning", "0");
  if (!cores.empty() && threads > 1) {
    std::vector<std::string> numbers;
    std::ranges::transform(cores, std::back_inserter(numbers),
                           [](int core) { return std::to_string(core + 1); });  // it counts them from 1
    const std::vector<std::string> each(static_cast<std::size_t>(threads) - 1, joined(numbers, ","));
    options.AddConfigEntry("session.intra_op_thread_affinities", joined(each, ";").c_str());
  }
  return options;
}

std::string names_of(const std::set<std::string>& names) {
  return names.empty() ? "none" : joined(std::vector(names.begin(), names.end()), ", ");
}

std::set<std::string> names_of(const std::vector<TensorSpec>& specs) {
  std::set<std::string> names;
  std::ranges::transform(specs, std::inserter(names, names.end()), &TensorSpec::name);
  return names;
}

void check_type(const std::string& file, const std::vector<TensorSpec>& specs, const std::string& name,
                const Ort::TypeInfo& info) {
  const auto spec = std::ranges::find(specs, name, &TensorSpec::name);
  const bool right = info.GetONNXType() == ONNX_TYPE_TENSOR &&
                     info.GetTensorTypeAndShapeInfo().GetElementType() == type_of(spec->dtype);
  if (!right) {
    throw EngineError(text(file, " has another type than ", name_of(spec->dtype), " for ", name,
                           ", which the manifest says; export it again"));
  }
}

}  // namespace

OnnxSession::OnnxSession(const Bundle& bundle, const std::string& file, std::vector<TensorSpec> inputs,
                         std::vector<TensorSpec> outputs, int threads, const Cores& cores)
    : inputs_(std::move(inputs)), outputs_(std::move(outputs)) {
  for (const TensorSpec& spec : inputs_) {
    input_names_.push_back(spec.name.c_str());
  }
  for (const TensorSpec& spec : outputs_) {
    output_names_.push_back(spec.name.c_str());
  }
  const std::string name = file.substr(file.rfind('/') + 1);
  try {
    env_ = environment();
    if (bundle.manifest.files.contains(file + ".data")) {  // its weights, which it reads by path
      const std::string path = text(shown_path(bundle.folder), "/", file);
      session_ = Ort::Session(*env_, path.c_str(), session_options(threads, cores));
    } else {
      const std::string bytes = bundle.read(file);
      session_ = Ort::Session(*env_, bytes.data(), bytes.size(), session_options(threads, cores));
    }
    check_names(name);
  } catch (const Ort::Exception& error) {
    if (is_no_memory(error.what())) {
      throw EngineError(text(name, ": out of memory (", words(error.what()), "); close other programs"));
    }
    throw EngineError(text(name, ": ONNX Runtime cannot load it (", words(error.what()), "); export it again"));
  }
}

void OnnxSession::check_names(const std::string& file) const {
  Ort::AllocatorWithDefaultOptions allocator;
  std::set<std::string> reads;
  std::set<std::string> makes;
  for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
    reads.insert(session_.GetInputNameAllocated(i, allocator).get());
  }
  for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
    makes.insert(session_.GetOutputNameAllocated(i, allocator).get());
  }
  const auto wanted = std::pair(names_of(inputs_), names_of(outputs_));
  if (reads != wanted.first || makes != wanted.second) {
    throw EngineError(text(file, " reads ", names_of(reads), " and makes ", names_of(makes), ", wanted ",
                           names_of(wanted.first), " and ", names_of(wanted.second), "; export it again"));
  }
  for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
    check_type(file, inputs_, session_.GetInputNameAllocated(i, allocator).get(), session_.GetInputTypeInfo(i));
  }
  for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
    check_type(file, outputs_, session_.GetOutputNameAllocated(i, allocator).get(), session_.GetOutputTypeInfo(i));
  }
}

void OnnxSession::run(const Ort::RunOptions& options, std::span<const OrtValue* const> inputs,
                      std::span<OrtValue*> outputs) const {
  const OrtStatus* failed = Ort::GetApi().Run(
      const_cast<OrtSession*>(static_cast<const OrtSession*>(session_)),  // NOLINT: it only reads it
      options, input_names_.data(), inputs.data(), inputs.size(), output_names_.data(), outputs.size(), outputs.data());
  if (failed == nullptr) {
    return;
  }
  const Ort::Status status(const_cast<OrtStatus*>(failed));  // NOLINT(*-const-cast): ours to free
  const std::string said = status.GetErrorMessage();
  if (is_no_memory(said)) {
    throw EngineError(text("out of memory (", words(said), "); close other programs, or run a smaller batch"));
  }
  throw EngineError(text("ONNX Runtime cannot run the model (", words(said), ")"));
}

OrtValue* BoundValue::of(DType dtype, std::span<const std::int64_t> shape, std::span<const std::byte> bytes) {
  if (value_ && data_ == bytes.data() && std::ranges::equal(shape_, shape)) {
    return value_;
  }
  static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  // inputs are only read: its interface has one kind of value for both
  auto* data = const_cast<std::byte*>(bytes.data());  // NOLINT(*-const-cast)
  value_ = Ort::Value::CreateTensor(memory, data, bytes.size(), shape.data(), shape.size(), type_of(dtype));
  data_ = bytes.data();
  shape_.assign(shape.begin(), shape.end());
  return value_;
}

Array array_of(const Ort::Value& value, DType dtype) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  Array array{dtype, info.GetShape(), std::vector<std::byte>(info.GetElementCount() * size_of(dtype))};
  if (!array.bytes.empty()) {
    std::memcpy(array.bytes.data(), value.GetTensorRawData(), array.bytes.size());
  }
  return array;
}

}  // namespace plainconv
