// What a network's outputs say of one image, in the image's own pixels.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"
#include "predict/geometry.hpp"

namespace plainconv {

/// The numbers of an output's first row, or of a part of that, and their shape.
struct Row {
  std::vector<std::int64_t> shape;
  std::vector<double> numbers;
  bool is_whole = false;
};

/// Numbers in float64: every dtype but float8 fits. Of several rows, `averaged`, their mean, summed in their order.
[[nodiscard]] Row row_of(const ConstTensor& output, std::int64_t averaged = 1);

/// Of an output [rows, count, ...] the numbers of one of the first row's, [...].
[[nodiscard]] Row part_of(const ConstTensor& output, std::size_t part);

/// Is given each answer in turn.
using Sink = std::function<void(Answer&& answer)>;

/// What is said of the image, the best first; rows by the outputs' names, but for masks of boxes, null where there are
/// none: one is read, and one is made, at a time. `classes` may be empty, or too few. Throws EngineError where a number
/// that counts is none.
void give_answers(const ByName<Row>& rows, const ConstTensor* masks, const Postprocessing& wanted,
                  const Geometry& where, std::span<const std::string> classes, const Sink& sink);

/// As JSON, the members as Python's `as_json` has them; a mask as COCO has it, runs of 0 and 1 in turn, by column.
[[nodiscard]] std::string json_of(const Answer& answer);

}  // namespace plainconv
