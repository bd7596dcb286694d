#include <array>

#include "bundle/json.hpp"
#include "predict/answers.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

/// How long the runs of 0 and 1 are, in turn, the first of 0.
std::string runs_of(const Mask& mask) {
  std::string all;
  std::uint8_t now = 0;
  std::int64_t run = 0;
  const auto end = [&] {
    all += text(all.empty() ? "" : ", ", run);
    run = 0;
  };
  for (std::int64_t x = 0; x < mask.width; ++x) {
    for (std::int64_t y = 0; y < mask.height; ++y) {
      if (mask.pixels[static_cast<std::size_t>(y * mask.width + x)] != now) {
        end();
        now = 1 - now;
      }
      ++run;
    }
  }
  end();
  return all;
}

}  // namespace

std::string json_of(const Answer& answer) {
  std::string all = text(R"({"label": )", json::json_text(answer.label), R"(, "number": )", answer.number,
                         R"(, "score": )", decimal(answer.score));
  if (answer.xyxy) {
    const auto [left, top, right, bottom] = *answer.xyxy;
    all += text(R"(, "xyxy": [)", decimal(left), ", ", decimal(top), ", ", decimal(right), ", ", decimal(bottom), "]");
  }
  if (answer.mask) {
    all += text(R"(, "mask": {"size": [)", answer.mask->height, ", ", answer.mask->width, R"(], "counts": [)",
                runs_of(*answer.mask), "]}");
  }
  return all + "}";
}

}  // namespace plainconv
