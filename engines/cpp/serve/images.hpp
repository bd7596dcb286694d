// An image as the body of an inference: through the model's queue as every request, and the answer as its bundle says.
#pragma once

#include <string>
#include <string_view>

#include "predict/geometry.hpp"
#include "routes.hpp"
#include "service.hpp"

namespace plainconv::serve {

/// A request that an image became, where its pixels lie in the input, and how that was made.
struct AskedImage {
  Asked asked;
  Geometry where;
  std::string said;
};

/// Whether a body of this type, in small letters, is an image.
[[nodiscard]] bool is_image(std::string_view content_type);

/// The request that the image file in `body` is, decoded, which takes its room. Throws Refused.
[[nodiscard]] AskedImage read_image(Service& service, const Route& route, const Body& body, Service::Room& room,
                                    Facts& facts);

/// What the model says of it, once the job is done, as JSON. Throws Refused.
[[nodiscard]] std::string answer_of_image(const AskedImage& image);

}  // namespace plainconv::serve
