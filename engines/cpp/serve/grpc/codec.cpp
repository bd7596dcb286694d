#include "grpc/codec.hpp"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <vector>

#include "bundle/json_tree.hpp"
#include "coding.hpp"
#include "product.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve::rpc {
namespace {

using inference::InferTensorContents;
using inference::ModelInferRequest;
using json::Value;
using Parameters = google::protobuf::Map<std::string, inference::InferParameter>;

constexpr std::string_view fields_of_types =
    "BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP32, FP64";

/// How a message is compressed: a ByteBuffer is a pointer to what says so, as its header asserts.
grpc_compression_algorithm compression_of(const grpc::ByteBuffer& sent) {
  const grpc_byte_buffer* parts = nullptr;
  static_assert(sizeof(sent) == sizeof(parts));
  std::memcpy(static_cast<void*>(&parts), static_cast<const void*>(&sent), sizeof(parts));
  return parts == nullptr ? GRPC_COMPRESS_NONE : parts->data.raw.compression;
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

/// Calls `use` with the field of a datatype's numbers, and its name. False where it has none.
template <class F>
bool with_field(InferTensorContents& contents, std::string_view datatype, F use) {
  if (datatype == "BOOL") {
    use(*contents.mutable_bool_contents(), "bool_contents");
  } else if (datatype == "INT8" || datatype == "INT16" || datatype == "INT32") {
    use(*contents.mutable_int_contents(), "int_contents");
  } else if (datatype == "INT64") {
    use(*contents.mutable_int64_contents(), "int64_contents");
  } else if (datatype == "UINT8" || datatype == "UINT16" || datatype == "UINT32") {
    use(*contents.mutable_uint_contents(), "uint_contents");
  } else if (datatype == "UINT64") {
    use(*contents.mutable_uint64_contents(), "uint64_contents");
  } else if (datatype == "FP32") {
    use(*contents.mutable_fp32_contents(), "fp32_contents");
  } else if (datatype == "FP64") {
    use(*contents.mutable_fp64_contents(), "fp64_contents");
  } else {
    return false;
  }
  return true;
}

void add(Numbers& numbers, bool value) { numbers.add(value); }
void add(Numbers& numbers, std::int32_t value) { numbers.add(std::int64_t{value}); }
void add(Numbers& numbers, std::uint32_t value) { numbers.add(std::int64_t{value}); }
void add(Numbers& numbers, std::int64_t value) { numbers.add(value); }
void add(Numbers& numbers, double value) { numbers.add(value); }
void add(Numbers& numbers, std::uint64_t value) {
  if (value <= static_cast<std::uint64_t>(INT64_MAX)) {
    numbers.add(static_cast<std::int64_t>(value));
  } else {
    numbers.add(value);
  }
}

Value value_of(const inference::InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case inference::InferParameter::kBoolParam: return parameter.bool_param();
    case inference::InferParameter::kInt64Param: return std::int64_t{parameter.int64_param()};
    case inference::InferParameter::kStringParam: return parameter.string_param();
    case inference::InferParameter::kDoubleParam: return parameter.double_param();
    case inference::InferParameter::kUint64Param: return json::value_of(std::uint64_t{parameter.uint64_param()});
    default: return nullptr;
  }
}

/// As JSON has them.
Value value_of(const Parameters& parameters) {
  json::Object all;
  for (const auto& [key, parameter] : parameters) {
    all.push_back({key, value_of(parameter)});
  }
  return all;
}

void take_shape(SentTensor& input, const ModelInferRequest::InferInputTensor& tensor) {
  const Value datatype(tensor.datatype());
  input.datatype = &datatype_sent(input.name, &datatype);
  const Value shape(json::Array(tensor.shape().begin(), tensor.shape().end()));
  input.shape = shape_of(input.name, &shape);
}

/// The numbers in the field of their type.
void take_typed(SentTensor& input, ModelInferRequest::InferInputTensor& tensor) {
  InferTensorContents& contents = *tensor.mutable_contents();
  const bool has_field = with_field(contents, tensor.datatype(), [&](auto& field, std::string_view name) {
    std::vector<const google::protobuf::FieldDescriptor*> set;
    contents.GetReflection()->ListFields(contents, &set);
    for (const auto* other : set) {
      if (other->name() != name) {
        throw bad_request(
            text("input ", as_sent(input.name), " has ", other->name(), ", wanted ", name, " for ", tensor.datatype()));
      }
    }
    take_shape(input, tensor);
    using Number = std::remove_cvref_t<decltype(*field.begin())>;
    if constexpr (std::is_floating_point_v<Number>) {
      if (product(input.shape, 1) == static_cast<std::size_t>(field.size())) {  // NaN is a number here
        const auto bytes = std::as_bytes(std::span(field.data(), static_cast<std::size_t>(field.size())));
        input.own.assign(bytes.begin(), bytes.end());
        input.bytes = input.own;
        return;
      }
    }
    Numbers numbers;
    numbers.start_list();
    for (const Number each : field) {
      add(numbers, each);
    }
    numbers.end_list();
    take_numbers(input, nullptr, numbers);
  });
  if (!has_field) {
    throw bad_request(text("input ", as_sent(input.name), " has datatype ", as_sent(tensor.datatype()),
                           "; give it in raw_input_contents, or one of ", fields_of_types, " in contents"));
  }
}

template <class T, class Field>
void append(Field& field, std::span<const std::byte> bytes) {
  field.Reserve(static_cast<int>(bytes.size() / sizeof(T)));
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(T)) {
    T value{};
    std::memcpy(&value, bytes.data() + at, sizeof(T));
    field.Add(value);
  }
}

bool has_field(DType dtype) noexcept { return dtype != DType::float16 && dtype != DType::bfloat16; }

void append(InferTensorContents& contents, DType dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case DType::bool_: append<bool>(*contents.mutable_bool_contents(), bytes); break;
    case DType::int8: append<std::int8_t>(*contents.mutable_int_contents(), bytes); break;
    case DType::uint8: append<std::uint8_t>(*contents.mutable_uint_contents(), bytes); break;
    case DType::int32: append<std::int32_t>(*contents.mutable_int_contents(), bytes); break;
    case DType::int64: append<std::int64_t>(*contents.mutable_int64_contents(), bytes); break;
    case DType::float32: append<float>(*contents.mutable_fp32_contents(), bytes); break;
    case DType::float64: append<double>(*contents.mutable_fp64_contents(), bytes); break;
    default: break;
  }
}

}  // namespace

std::size_t read(grpc::ByteBuffer& sent, std::size_t limit, google::protobuf::MessageLite& message) {
  const auto check = [](bool is_read) {
    if (!is_read) {
      throw bad_request("the message cannot be read: it is not what this method takes");
    }
  };
  const auto compression = compression_of(sent);
  std::size_t size = sent.Length();
  if (compression == GRPC_COMPRESS_NONE) {
    check(grpc::GenericDeserialize<grpc::ProtoBufferReader, void>(&sent, &message).ok());
    return size;
  }
  grpc::Slice all;
  check(sent.DumpToSingleSlice(&all).ok());
  const Body body = decompressed(std::as_bytes(std::span(all.begin(), all.size())),
                                 compression == GRPC_COMPRESS_GZIP ? "gzip" : "deflate", limit, 0);
  size = body.bytes.size();
  check(message.ParseFromArray(body.bytes.data(), static_cast<int>(size)));
  return size;
}

grpc::ByteBuffer written(const google::protobuf::MessageLite& message) {
  grpc::ByteBuffer bytes;
  bool is_own = false;
  if (!grpc::GenericSerialize<grpc::ProtoBufferWriter, void>(message, &bytes, &is_own).ok()) {
    throw failed("the answer is too large for a message");
  }
  return bytes;
}

InferRequest decoded(ModelInferRequest& message, std::optional<Seconds> remaining, bool offers_shared_memory) {
  const int raw = message.raw_input_contents_size();
  const int tensors = message.inputs_size();
  constexpr int most = most_tensors;
  if (tensors > most || message.outputs_size() > most) {
    throw bad_request(text("the request has more than ", most, " tensors"));
  }
  std::vector<std::optional<Place>> places;
  for (const auto& tensor : message.inputs()) {
    places.push_back(place_of("input " + as_sent(tensor.name()), value_of(tensor.parameters()), offers_shared_memory));
  }
  const auto here = std::ranges::count(places, false, &std::optional<Place>::has_value);
  if (raw != 0 && raw != here) {
    throw bad_request(text("the request has ", raw, " raw_input_contents, wanted one for each of ", here, " inputs"));
  }
  InferRequest request;
  int taken = 0;  // of the raw contents
  const Value parameters = value_of(message.parameters());
  refuse_not_offered("the request", parameters);
  request.inputs.reserve(static_cast<std::size_t>(tensors));
  for (int i = 0; i < tensors; ++i) {
    auto& tensor = *message.mutable_inputs(i);
    const std::string what = "input " + as_sent(tensor.name());
    if (std::ranges::find(request.inputs, tensor.name(), &SentTensor::name) != request.inputs.end()) {
      throw bad_request(what + " is given twice");
    }
    refuse_not_offered(what, value_of(tensor.parameters()));
    SentTensor& input = request.inputs.emplace_back();
    input.name = tensor.name();
    input.place = std::move(places[static_cast<std::size_t>(i)]);
    if (input.place && tensor.has_contents()) {
      throw bad_request(what + " has a region of shared memory and contents as well");
    }
    if (input.place) {
      take_shape(input, tensor);
    } else if (raw == 0) {
      take_typed(input, tensor);
    } else if (tensor.has_contents()) {
      throw bad_request(what + " has contents and raw_input_contents, wanted one of them");
    } else {
      take_shape(input, tensor);
      take_bytes(input, bytes_of(message.raw_input_contents(taken++)));
    }
  }
  for (const auto& output : message.outputs()) {
    const Value own = value_of(output.parameters());
    const std::string what = "output " + as_sent(output.name());
    refuse_not_offered(what, own);
    request.outputs.push_back({output.name(), std::nullopt, place_of(what, own, offers_shared_memory)});
  }
  const Value id(message.id());
  request.id = id_of(&id);
  request.timeout = timeout_of(parameters);
  if (remaining) {
    request.timeout = std::min(request.timeout.value_or(*remaining), *remaining);
  }
  request.binary = raw != 0 || here != tensors;
  return request;
}

inference::ModelInferResponse encoded(const Asked& asked) {
  const auto outputs = Service::outputs(asked);
  const bool is_raw = asked.held->request.binary ||
                      std::ranges::all_of(outputs, [](const SentOutput& each) { return each.place != nullptr; }) ||
                      !std::ranges::all_of(outputs, [](const SentOutput& each) { return has_field(each.dtype); });
  inference::ModelInferResponse answer;
  answer.set_model_name(asked.model->name());
  answer.set_model_version(std::string(model_version));
  answer.set_id(asked.held->request.id);
  for (const SentOutput& each : outputs) {
    auto& output = *answer.add_outputs();
    output.set_name(std::string(each.name));
    output.set_datatype(std::string(datatype_of(each.dtype)));
    output.mutable_shape()->Add(each.shape.begin(), each.shape.end());
    if (each.place != nullptr) {
      auto& parameters = *output.mutable_parameters();
      parameters[std::string(region_key)].set_string_param(each.place->region);
      parameters[std::string(size_key)].set_int64_param(static_cast<std::int64_t>(each.place->extent.size));
      if (each.place->extent.offset != 0) {
        parameters[std::string(offset_key)].set_int64_param(static_cast<std::int64_t>(each.place->extent.offset));
      }
    }
    const auto bytes = each.place != nullptr ? std::span<const std::byte>() : each.bytes;
    if (is_raw) {
      answer.add_raw_output_contents(bytes.data(), bytes.size());  // as many as the outputs
    } else {
      append(*output.mutable_contents(), each.dtype, bytes);
    }
  }
  return answer;
}

}  // namespace plainconv::serve::rpc
