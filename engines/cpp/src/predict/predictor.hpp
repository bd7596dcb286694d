// Image in, answer out: around whatever runs the network.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "predict/answers.hpp"
#include "predict/image.hpp"

namespace plainconv {

/// An image as the network takes it, where its pixels lie in that, and how it was made.
struct Prepared {
  Array input;
  Geometry where;
  std::string said;
};

/// What a bundle says of images.
class Predictor {
 public:
  /// `rows`: how many the network takes at least, where its batch is open. Throws EngineError, in one line, where the
  /// manifest does not say how an image becomes its input, or what its outputs mean.
  explicit Predictor(const Manifest& manifest, std::int64_t rows = 1);

  /// The input that an image file, or pixels, make. Throws ImageError.
  [[nodiscard]] Prepared prepare(std::span<const std::byte> file, std::string_view name,
                                 std::int64_t most = most_pixels) const;
  [[nodiscard]] Prepared prepare(const Pixels& image) const;

  /// What all outputs, in the bundle's order, say of the image in their first row, or on average of its crops, the best
  /// first; and as JSON, for which no two masks are held at a time.
  [[nodiscard]] std::vector<Answer> answers(std::span<const ConstTensor> outputs, const Geometry& where) const;
  [[nodiscard]] std::string said(std::span<const ConstTensor> outputs, const Geometry& where) const;

  /// "classify", "segment" or "detect".
  [[nodiscard]] const std::string& kind() const noexcept { return postprocessing_.kind; }
  /// The outputs that it reads.
  [[nodiscard]] const std::vector<std::string>& reads() const noexcept { return reads_; }
  [[nodiscard]] const std::string& input() const noexcept { return spec_.name; }

 private:
  [[nodiscard]] Prepared prepared(Upright upright) const;
  void give(std::span<const ConstTensor> outputs, const Geometry& where, const Sink& sink) const;

  Preprocessing preprocessing_;
  Postprocessing postprocessing_;
  std::vector<std::string> classes_;
  TensorSpec spec_;
  std::int64_t rows_;
  std::vector<std::string> outputs_;
  std::vector<std::string> reads_;
};

}  // namespace plainconv
