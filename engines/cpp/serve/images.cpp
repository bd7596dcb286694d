#include "images.hpp"

#include <algorithm>
#include <cmath>

#include "datatypes.hpp"
#include "plainconv/bundle.hpp"
#include "predict/predictor.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::int64_t most_image_pixels = std::int64_t{1} << 25;
constexpr std::int64_t bytes_a_pixel = 30;  // that decoding takes at most

const Predictor& predictor_of(const Model& model) {
  try {
    return model.network().predictor();
  } catch (const EngineError& error) {
    throw bad_request(error.what());
  }
}

std::vector<ConstTensor> outputs_of(const Job& job) {
  std::vector<ConstTensor> outputs;
  for (const Tensor& each : job.outputs) {
    outputs.push_back({each.dtype, each.shape, each.bytes});
  }
  for (const Array& each : job.made) {
    outputs.push_back({each.dtype, each.shape, each.bytes});
  }
  return outputs;
}

}  // namespace

bool is_image(std::string_view content_type) { return content_type.starts_with("image/"); }

AskedImage read_image(Service& service, const Route& route, const Body& body, Service::Room& room, Facts& facts) {
  const auto start = Clock::now();
  facts.model = "";
  check_version(route.version);
  auto used = service.store().use(route.model);
  facts.model = used->name();
  const Predictor& predictor = predictor_of(*used);
  try {
    const ImageHead head = head_of(body.bytes, "the file", most_image_pixels);
    room.grow(static_cast<std::size_t>(head.width * head.height * bytes_a_pixel));
    Prepared prepared = predictor.prepare(body.bytes, "the file", most_image_pixels);
    const auto* datatype = std::ranges::find(datatypes, std::optional(prepared.input.dtype), &Datatype::dtype);
    Asked asked{std::move(used), std::make_shared<Held>(), start};
    auto& input = asked.held->request.inputs.emplace_back();
    input = {predictor.input(), datatype, prepared.input.shape, {}, std::move(prepared.input.bytes), {}};
    input.bytes = input.own;
    service.prepare(asked, room);
    return {std::move(asked), prepared.where, std::move(prepared.said)};
  } catch (const ImageError& error) {
    throw error.is_large() ? too_large(error.what()) : bad_request(error.what());
  } catch (const EngineError& error) {  // built without the decoders
    throw bad_request(error.what());
  }
}

std::string answer_of_image(const AskedImage& image) {
  constexpr double in_milliseconds = 1e3;
  const Predictor& predictor = image.asked.model->network().predictor();
  std::string said;
  try {
    said = predictor.said(outputs_of(*image.asked.job), image.where);
  } catch (const EngineError& error) {
    throw failed(error.what());
  }
  const Seconds took = Clock::now() - image.asked.start;
  return text(R"({"model_name": )", json_text(image.asked.model->name()), R"(, "kind": )", json_text(predictor.kind()),
              R"(, "image": {"width": )", image.where.image[1], R"(, "height": )", image.where.image[0],
              R"(}, "predictions": )", said, R"(, "prepared": )", json_text(image.said), R"(, "milliseconds": )",
              decimal(std::round(took.count() * in_milliseconds * 1e3) / 1e3), "}");
}

}  // namespace plainconv::serve
