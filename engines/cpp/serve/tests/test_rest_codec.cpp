#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include "body.hpp"
#include "refusals.hpp"
#include "rest_codec.hpp"
#include "serving_doubles.hpp"

using plainconv::DType;
using plainconv::serve::decoded;
using plainconv::serve::InferRequest;
using plainconv::serve::Refused;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string refusal_of(const std::string& body, std::optional<std::size_t> json_length = std::nullopt) {
  return thrown_by<Refused>([&] { (void)decoded(bytes_of(body), json_length); });
}

std::string tensor(const std::string& rest) { return R"({"inputs": [{"name": "x", )" + rest + "}]}"; }

}  // namespace

TEST_CASE("binary tensors stay where they are, unless they lie so that no number may") {
  const std::string json =
      R"({"inputs": [{"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
      {"name": "b", "datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": 1}},
      {"name": "c", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}}],
      "id": "i", "parameters": {"timeout": 1500000, "binary_data_output": true},
      "outputs": [{"name": "y"}, {"name": "z", "parameters": {"binary_data": false}}]})";
  auto body = plainconv::serve::body_of(json.size() + 17, json.size());
  std::memcpy(body.bytes.data(), json.data(), json.size());
  std::memset(body.bytes.data() + json.size(), 1, 17);
  const InferRequest request = decoded(body.bytes, json.size());
  REQUIRE(request.inputs.size() == 3);
  CHECK(request.inputs[0].bytes.data() == body.bytes.data() + json.size());
  CHECK(request.inputs[1].bytes.data() == body.bytes.data() + json.size() + 8);
  CHECK(request.inputs[2].bytes.data() == request.inputs[2].own.data());  // 9 bytes behind the first
  CHECK(std::ranges::all_of(request.inputs[2].bytes, [](std::byte byte) { return byte == std::byte{1}; }));
  CHECK((request.id == "i" && request.binary && request.timeout == plainconv::serve::Seconds(1.5)));
  CHECK((request.outputs.size() == 2 && !request.outputs[0].binary && request.outputs[1].binary == false));
}

TEST_CASE("what is wrong is said in one sentence") {
  const std::string fp32 = R"("datatype": "FP32", "shape": [2], )";
  CHECK(refusal_of("7") == "the request is a JSON number, wanted an object");
  CHECK(refusal_of("{}") == "the request has no inputs, wanted a list of up to 256 tensors");
  CHECK(refusal_of(tensor(fp32 + R"("data": [1, 2, 3])")) == "input 'x' has 3 numbers, wanted 2 for the shape [2]");
  CHECK(refusal_of(tensor(R"("datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": 1})") + "\x02",
                   tensor(R"("datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": 1})").size()) ==
        "input 'x' has a byte above 1 in its data, wanted 0 or 1 for BOOL");
  CHECK(
      refusal_of(tensor(R"("datatype": "FP64", "shape": [9223372036854775807, 9223372036854775807, 3], "data": [])")) ==
      "input 'x' has 0 numbers, wanted 255211775190703847542190723352697503747 for the shape [9223372036854775807, "
      "9223372036854775807, 3]");
  CHECK(refusal_of(tensor(R"("datatype": "FP64", "shape": [0, 9223372036854775807, 3], "data": [])")).empty());
  CHECK(contains(refusal_of(R"({"id": ")" + std::string(1025, 'i') + R"(", "inputs": []})"),
                 "wanted text of up to 1024"));
  CHECK(refusal_of(R"({"id": ")" + std::string(1024, 'i') + R"(", "inputs": []})").empty());
}

TEST_CASE("lengths of the JSON") {
  using plainconv::serve::header_length;
  CHECK_FALSE(header_length(std::nullopt, 5));
  CHECK(header_length("5", 5) == 5);
  for (const char* wrong : {"", "005", "6", "-1", "+1", "0x1", " 1", "1.0", "9999999999999999999"}) {
    CHECK(contains(thrown_by<Refused>([&] { (void)header_length(wrong, 5); }), "wanted up to the 5 bytes of the body"));
  }
}

TEST_CASE("an answer is JSON, then its binary tensors") {
  const std::array<float, 2> y{1, 0.5};
  const std::array<std::int64_t, 2> shape{1, 2};
  const auto bytes = std::as_bytes(std::span(y));
  const std::array outputs{plainconv::serve::SentOutput{"y", DType::float32, shape, 8, false, bytes},
                           plainconv::serve::SentOutput{"z\"", DType::float32, shape, 8, true, bytes}};
  CHECK(plainconv::serve::encoded("m", "1", "a\n\xff", outputs) ==
        "{\"model_name\":\"m\",\"model_version\":\"1\",\"id\":\"a\\n\xEF\xBF\xBD\",\"outputs\":[{\"name\":\"y\","
        "\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1.0,0.5]},{\"name\":\"z\\\"\",\"datatype\":\"FP32\",\"shape\":"
        "[1,2],\"parameters\":{\"binary_data_size\":8}}]}");
}
