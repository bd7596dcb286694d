#include "rest_codec.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "document.hpp"
#include "product.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

using json::Array;
using json::Object;
using json::Value;

constexpr std::size_t most_digits = 18;

std::string_view kind_of(const Value& value) noexcept {
  if (std::holds_alternative<std::nullptr_t>(value)) {
    return "null";
  }
  if (std::holds_alternative<bool>(value)) {
    return "truth value";
  }
  if (std::holds_alternative<std::string>(value)) {
    return "text";
  }
  return std::holds_alternative<Array>(value) ? "list" : "number";
}

Document document(std::string_view text) {
  try {
    Document found = document_of(text);
    if (!std::holds_alternative<Object>(found.root)) {
      throw bad_request(plainconv::text("the request is a JSON ", kind_of(found.root), ", wanted an object"));
    }
    return found;
  } catch (const json::SyntaxError& error) {
    throw bad_request(plainconv::text("the request is not JSON (", error.what(), ")"));
  }
}

/// The list of objects at `key`.
const Array& tensors_at(const Value& request, std::string_view key) {
  const Value* value = json::find(request, key);
  const auto* list = value == nullptr ? nullptr : std::get_if<Array>(value);
  if (list == nullptr || list->size() > most_tensors) {
    const std::string found = list != nullptr ? std::to_string(list->size()) : is_null(value) ? "no" : "other";
    throw bad_request(text("the request has ", found, " ", key, ", wanted a list of up to ", most_tensors, " tensors"));
  }
  if (!std::ranges::all_of(*list, [](const Value& each) { return std::holds_alternative<Object>(each); })) {
    throw bad_request(text("the request has something else than tensors (JSON objects) in its ", key));
  }
  return *list;
}

const std::string& name_of(std::string_view key, const Value& tensor) {
  const Value* value = json::find(tensor, "name");
  const auto* name = value == nullptr ? nullptr : std::get_if<std::string>(value);
  if (name == nullptr) {
    throw bad_request(text("the request has a tensor named ", as_sent(value), " in its ", key, ", wanted a name"));
  }
  return *name;
}

/// The parameters of `holder`; a null where it has none.
const Value& parameters_of(std::string_view what, const Value& holder) {
  static const Value none(nullptr);
  const Value* value = json::find(holder, "parameters");
  if (is_null(value)) {
    return none;
  }
  if (!std::holds_alternative<Object>(*value)) {
    throw bad_request(text(what, " has parameters ", as_sent(value), ", wanted an object"));
  }
  return *value;
}

std::optional<bool> flag_of(std::string_view what, const Value& parameters, std::string_view key) {
  const Value* value = json::find(parameters, key);
  if (is_null(value)) {
    return std::nullopt;
  }
  const auto* flag = std::get_if<bool>(value);
  if (flag == nullptr) {
    throw bad_request(text(what, " has ", key, " ", as_sent(value), ", wanted true or false"));
  }
  return *flag;
}

/// The inputs; takes those that are binary from the front of `rest`.
std::vector<SentTensor> inputs_of(const Document& sent, std::span<const std::byte>& rest, bool binary_follows,
                                  bool offers_shared_memory) {
  std::vector<SentTensor> inputs;
  const Array& tensors = tensors_at(sent.root, "inputs");
  inputs.reserve(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    SentTensor input;
    input.name = name_of("inputs", tensors[i]);
    const std::string what = "input " + as_sent(input.name);
    if (std::ranges::find(inputs, input.name, &SentTensor::name) != inputs.end()) {
      throw bad_request(what + " is given twice");
    }
    const Value& parameters = parameters_of(what, tensors[i]);
    refuse_not_offered(what, parameters);
    const Value* data = json::find(tensors[i], "data");
    const Value* size = json::find(parameters, "binary_data_size");
    const bool is_binary = !is_null(size);
    input.place = place_of(what, parameters, offers_shared_memory);
    if (input.place && (is_binary || data != nullptr)) {
      throw bad_request(what + " has a region of shared memory and data as well");
    }
    if (!input.place && !is_binary && data == nullptr) {
      throw bad_request(what + " has neither data nor binary_data_size");
    }
    if (is_binary && (data != nullptr || !binary_follows)) {
      const std::string found = data != nullptr ? "data as well" : text("the request no header ", header_length_name);
      throw bad_request(text(what, " has binary_data_size and ", found));
    }
    const auto* whole = is_binary ? std::get_if<std::int64_t>(size) : nullptr;
    if (is_binary && (whole == nullptr || *whole < 0 || static_cast<std::size_t>(*whole) > rest.size())) {
      throw bad_request(text(what, " has binary_data_size ", as_sent(size), ", and ", rest.size(), " bytes follow"));
    }
    input.datatype = &datatype_sent(input.name, json::find(tensors[i], "datatype"));
    input.shape = shape_of(input.name, json::find(tensors[i], "shape"));
    if (is_binary) {
      take_bytes(input, rest.first(static_cast<std::size_t>(*whole)));
      rest = rest.subspan(static_cast<std::size_t>(*whole));
    } else if (!input.place) {
      take_numbers(input, data, i < sent.data.size() ? sent.data[i] : std::nullopt);
    }
    inputs.push_back(std::move(input));
  }
  return inputs;
}

std::vector<WantedOutput> outputs_of(const Value& request, bool offers_shared_memory) {
  std::vector<WantedOutput> outputs;
  if (is_null(json::find(request, "outputs"))) {
    return outputs;
  }
  for (const Value& tensor : tensors_at(request, "outputs")) {
    const std::string& name = name_of("outputs", tensor);
    const std::string what = "output " + as_sent(name);
    const Value& parameters = parameters_of(what, tensor);
    refuse_not_offered(what, parameters);
    outputs.push_back(
        {name, flag_of(what, parameters, "binary_data"), place_of(what, parameters, offers_shared_memory)});
  }
  return outputs;
}

}  // namespace

std::optional<std::size_t> header_length(std::optional<std::string_view> sent, std::size_t body) {
  if (!sent) {
    return std::nullopt;
  }
  std::size_t length = 0;
  const char* end = sent->data() + sent->size();
  const bool is_number = !sent->empty() && sent->size() <= most_digits && (*sent == "0" || !sent->starts_with('0')) &&
                         std::from_chars(sent->data(), end, length).ptr == end;
  if (!is_number || length > body) {
    throw bad_request(
        text(header_length_name, " is ", as_sent(*sent), ", wanted up to the ", body, " bytes of the body"));
  }
  return length;
}

InferRequest decoded(std::span<const std::byte> body, std::optional<std::size_t> json_length,
                     bool offers_shared_memory) {
  const auto json = body.first(json_length.value_or(body.size()));
  if (json.size() > most_json) {
    throw too_large(
        text("the request has ", json.size(), " bytes of JSON, wanted up to ", most_json, "; send binary tensors"));
  }
  // NOLINTNEXTLINE(*-reinterpret-cast): bytes are text here
  const Document sent = document({reinterpret_cast<const char*>(json.data()), json.size()});
  InferRequest request;
  const Value& parameters = parameters_of("the request", sent.root);
  refuse_not_offered("the request", parameters);
  auto rest = body.subspan(json.size());
  request.inputs = inputs_of(sent, rest, json_length.has_value(), offers_shared_memory);
  if (!rest.empty()) {
    throw bad_request(text("the body has ", rest.size(), " bytes more than its inputs say; see binary_data_size"));
  }
  request.outputs = outputs_of(sent.root, offers_shared_memory);
  request.id = id_of(json::find(sent.root, "id"));
  request.timeout = timeout_of(parameters);
  request.binary = flag_of("the request", parameters, "binary_data_output").value_or(false);
  return request;
}

json::Value object_of(std::span<const std::byte> body) {
  // NOLINTNEXTLINE(*-reinterpret-cast): bytes are text here
  const std::string_view sent(reinterpret_cast<const char*>(body.data()), body.size());
  return sent.empty() ? Value(Object{}) : document(sent).root;
}

std::string encoded(std::string_view model, std::string_view version, std::string_view id,
                    std::span<const SentOutput> outputs) {
  std::string all = text(R"({"model_name":)", json_text(model), R"(,"model_version":)", json_text(version));
  if (!id.empty()) {
    all += R"(,"id":)" + json_text(id);
  }
  all += R"(,"outputs":[)";
  for (const SentOutput& output : outputs) {
    all += text(&output == outputs.data() ? "" : ",", R"({"name":)", json_text(output.name), R"(,"datatype":")",
                datatype_of(output.dtype), R"(","shape":[)");
    for (std::size_t i = 0; i < output.shape.size(); ++i) {
      all += text(i == 0 ? "" : ",", output.shape[i]);
    }
    if (output.place != nullptr) {
      const auto& [offset, size] = output.place->extent;
      all += text(R"(],"parameters":{")", region_key, R"(":)", json_text(output.place->region), ",\"", size_key,
                  "\":", size, offset == 0 ? "" : text(",\"", offset_key, "\":", offset), "}}");
    } else if (output.binary) {
      all += text(R"(],"parameters":{"binary_data_size":)", output.size, "}}");
    } else {
      all += text(R"(],"data":)", json_of(output.dtype, output.bytes), "}");
    }
  }
  return all + "]}";
}

}  // namespace plainconv::serve
