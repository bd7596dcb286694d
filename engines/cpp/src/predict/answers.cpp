#include "predict/answers.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <string_view>

#include "halves.hpp"
#include "predict/masks.hpp"
#include "predict/power.hpp"
#include "predict/suppression.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::int64_t no_class = -1;

std::string label_of(std::span<const std::string> classes, std::int64_t number) {
  return number >= 0 && number < std::ssize(classes) ? classes[static_cast<std::size_t>(number)] : text(number);
}

void check_finite(std::span<const double> values, std::string_view what) {
  if (!std::ranges::all_of(values, [](double value) { return std::isfinite(value); })) {
    throw EngineError(
        text("the model's ", what, " have values that are no numbers; check its weights, or another precision"));
  }
}

/// How many numbers, of `count` each, there are for each of the first axis.
std::size_t stride_of(std::size_t count, std::size_t numbers) { return count == 0 ? 0 : numbers / count; }

/// Softmax over the first axis; scores that are shares already, none below 0 and together 1, as they are.
std::vector<double> shares_of(std::vector<double> scores, std::size_t classes) {
  check_finite(scores, "output");
  const std::size_t places = stride_of(classes, scores.size());
  std::vector<double> sums(places);
  std::vector<double> highest(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(places));
  for (std::size_t i = 0; i < scores.size(); ++i) {
    sums[i % places] += scores[i];
    highest[i % places] = std::max(highest[i % places], scores[i]);
  }
  constexpr double slack = 1e-3;
  if (std::ranges::all_of(scores, [](double score) { return score >= 0; }) &&
      std::ranges::all_of(sums, [](double sum) { return std::fabs(sum - 1) < slack; })) {
    return scores;
  }
  std::ranges::fill(sums, 0);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    scores[i] = power_of_e(scores[i] - highest[i % places]);
    sums[i % places] += scores[i];
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    scores[i] /= sums[i % places];
  }
  return scores;
}

std::vector<Answer> classes_of(const Row& scores, const Postprocessing& wanted, std::span<const std::string> classes) {
  const auto shares = shares_of(scores.numbers, scores.numbers.size());
  std::vector<std::size_t> order(shares.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::ranges::greater(), [&](std::size_t i) { return scores.numbers[i]; });
  order.resize(std::min(order.size(), static_cast<std::size_t>(wanted.top)));
  std::vector<Answer> found;
  for (const std::size_t i : order) {
    const auto number = static_cast<std::int64_t>(i);
    found.push_back({label_of(classes, number), number, shares[i]});
  }
  return found;
}

/// The class of each place, and its share.
struct Labels {
  std::vector<std::int64_t> numbers;
  std::vector<double> shares;
};

/// Of scores [classes, h, w]; of [h, w] numbers themselves, and 1. One channel of scores tells one class, where it is
/// above 0, from none.
Labels labels_of(const Row& values) {
  Labels found;
  if (values.shape.size() == 2) {
    std::ranges::transform(values.numbers, std::back_inserter(found.numbers),
                           [](double value) { return static_cast<std::int64_t>(value); });
    found.shares.assign(values.numbers.size(), 1);
    return found;
  }
  const auto classes = static_cast<std::size_t>(values.shape[0]);
  if (classes == 1) {
    constexpr double most = 500;
    check_finite(values.numbers, "output");
    for (const double value : values.numbers) {
      found.numbers.push_back(value > 0 ? 0 : no_class);
      found.shares.push_back(1 / (1 + power_of_e(-std::clamp(value, -most, most))));
    }
    return found;
  }
  const auto shares = shares_of(values.numbers, classes);
  const std::size_t places = stride_of(classes, shares.size());
  for (std::size_t at = 0; at < places; ++at) {
    std::size_t best = 0;
    double share = 0;
    for (std::size_t c = 0; c < classes; ++c) {
      best = values.numbers[c * places + at] > values.numbers[best * places + at] ? c : best;
      share = std::max(share, shares[c * places + at]);
    }
    found.numbers.push_back(static_cast<std::int64_t>(best));
    found.shares.push_back(share);
  }
  return found;
}

std::vector<Answer> segments_of(const Row& values, const Geometry& where, std::span<const std::string> classes) {
  const Labels labels = labels_of(values);
  const auto sizes = std::span(values.shape).last(2);
  const auto rows = places_along(where, 0, sizes[0]);
  const auto columns = places_along(where, 1, sizes[1]);
  std::map<std::int64_t, Answer> found;
  std::map<std::int64_t, std::int64_t> counts;
  std::size_t pixel = 0;
  for (const std::int64_t row : rows) {
    for (const std::int64_t column : columns) {
      const auto at = static_cast<std::size_t>(row * sizes[1] + column);
      if (row >= 0 && column >= 0 && labels.numbers[at] != no_class) {
        const std::int64_t number = labels.numbers[at];
        Answer& segment = found[number];
        if (!segment.mask) {
          segment = {label_of(classes, number), number, 0, {}, Mask{where.image[0], where.image[1], {}}};
          segment.mask->pixels.resize(rows.size() * columns.size());
        }
        segment.mask->pixels[pixel] = 1;
        segment.score += labels.shares[at];
        ++counts[number];
      }
      ++pixel;
    }
  }
  std::vector<Answer> sorted;
  for (auto& [number, segment] : found) {
    segment.score /= static_cast<double>(counts[number]);
    sorted.push_back(std::move(segment));
  }
  std::ranges::stable_sort(sorted, std::ranges::greater(), [&](const Answer& each) { return counts[each.number]; });
  return sorted;
}

/// Boxes as corners, and of each its best class and that one's score.
struct Candidates {
  std::vector<Corners> boxes;
  std::vector<double> scores;
  std::vector<std::int64_t> labels;
  std::vector<std::size_t> rows;  // of the outputs
};

Candidates candidates_of(const ByName<Row>& rows, const Postprocessing& wanted) {
  const Row& boxes = rows.find(wanted.boxes)->second;
  const Row& scores = rows.find(wanted.scores)->second;
  const bool is_rows = wanted.form == "rows";
  const auto most = static_cast<std::size_t>(is_rows ? boxes.shape.at(1) : boxes.shape.at(0));
  std::size_t count = most;
  Candidates found;
  if (wanted.form == "final") {
    if (!wanted.count.empty()) {
      count = static_cast<std::size_t>(
          std::clamp(rows.find(wanted.count)->second.numbers.at(0), 0.0, static_cast<double>(most)));
    }
    found.scores.assign(scores.numbers.begin(), scores.numbers.begin() + static_cast<std::ptrdiff_t>(count));
    for (const double label : std::span(rows.find(wanted.labels)->second.numbers).first(count)) {
      found.labels.push_back(static_cast<std::int64_t>(label));
    }
  } else {
    const auto classes = static_cast<std::size_t>(is_rows ? boxes.shape.at(0) - 4 : scores.shape.at(1));
    const auto score = [&](std::size_t i, std::size_t c) {
      return is_rows ? scores.numbers[(4 + c) * most + i] : scores.numbers[i * classes + c];
    };
    check_finite(std::span(scores.numbers).subspan(is_rows ? 4 * most : 0), "scores");
    for (std::size_t i = 0; i < most; ++i) {
      std::size_t best = 0;
      for (std::size_t c = 1; c < classes; ++c) {
        best = score(i, c) > score(i, best) ? c : best;
      }
      found.labels.push_back(static_cast<std::int64_t>(best));
      found.scores.push_back(score(i, best));
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    Corners box{};
    for (std::size_t k = 0; k < box.size(); ++k) {
      box.at(k) = boxes.numbers[is_rows ? k * most + i : i * 4 + k];
    }
    if (wanted.coordinates == "cxcywh") {
      const auto [x, y, width, height] = box;
      box = {x - width * 0.5, y - height * 0.5, x + width * 0.5, y + height * 0.5};
    }
    found.boxes.push_back(box);
    found.rows.push_back(i);
  }
  return found;
}

/// Those of these places, in this order.
Candidates taken(const Candidates& from, std::span<const std::size_t> places) {
  Candidates found;
  for (const std::size_t i : places) {
    found.boxes.push_back(from.boxes[i]);
    found.scores.push_back(from.scores[i]);
    found.labels.push_back(from.labels[i]);
    found.rows.push_back(from.rows[i]);
  }
  return found;
}

bool is_whole(DType dtype) noexcept { return name_of(dtype).find("float") == std::string_view::npos; }

void give_boxes(const ByName<Row>& rows, const ConstTensor* masks, const Postprocessing& wanted, const Geometry& where,
                std::span<const std::string> classes, const Sink& sink) {
  Candidates all = candidates_of(rows, wanted);
  check_finite(all.scores, "scores");
  std::vector<std::size_t> likely;
  for (std::size_t i = 0; i < all.scores.size(); ++i) {
    if (all.scores[i] > wanted.score && all.labels[i] >= 0) {
      likely.push_back(i);
    }
  }
  std::ranges::stable_sort(likely, std::ranges::greater(), [&](std::size_t i) { return all.scores[i]; });
  all = taken(all, likely);
  for (const Corners& box : all.boxes) {
    check_finite(box, "boxes");
  }
  const auto most = static_cast<std::size_t>(wanted.max);
  if (wanted.form != "final") {
    all = taken(all, kept(all.boxes, all.labels, wanted.iou, most));
  }
  const std::size_t count = std::min(most, all.boxes.size());
  if (masks != nullptr && !is_whole(masks->dtype)) {  // whole numbers are finite
    for (std::size_t i = 0; i < count; ++i) {
      check_finite(part_of(*masks, all.rows[i]).numbers, "masks");
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    Answer answer{label_of(classes, all.labels[i]), all.labels[i], all.scores[i], where.to_image(all.boxes[i])};
    if (masks != nullptr) {
      answer.mask = pasted(part_of(*masks, all.rows[i]), *answer.xyxy, where);
    }
    sink(std::move(answer));
  }
}

template <class T, class F>
std::vector<double> converted(std::span<const std::byte> bytes, F convert) {
  std::vector<double> numbers(bytes.size() / sizeof(T));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    T value{};
    std::memcpy(&value, &bytes[i * sizeof(T)], sizeof(T));
    numbers[i] = static_cast<double>(convert(value));
  }
  return numbers;
}

std::vector<double> numbers_of(DType dtype, std::span<const std::byte> bytes) {
  const auto same = [](auto value) { return value; };
  switch (dtype) {
    case DType::bool_:
    case DType::uint8: return converted<std::uint8_t>(bytes, same);
    case DType::int8: return converted<std::int8_t>(bytes, same);
    case DType::int32: return converted<std::int32_t>(bytes, same);
    case DType::int64: return converted<std::int64_t>(bytes, same);
    case DType::float16: return converted<std::uint16_t>(bytes, float_of_half);
    case DType::bfloat16: return converted<std::uint16_t>(bytes, float_of_bfloat);
    case DType::float32: return converted<float>(bytes, same);
    case DType::float64: return converted<double>(bytes, same);
    case DType::float8_e4m3fn: break;  // between parts only
  }
  return {};
}

}  // namespace

Row row_of(const ConstTensor& output, std::int64_t averaged) {
  Row row{{output.shape.begin(), output.shape.end()}, {}, is_whole(output.dtype)};
  auto bytes = output.bytes;
  if (!row.shape.empty()) {
    const auto rows = static_cast<std::size_t>(std::max<std::int64_t>(1, row.shape.front()));
    bytes = bytes.first(bytes.size() / rows * static_cast<std::size_t>(averaged));
    row.shape.erase(row.shape.begin());
  }
  row.numbers = numbers_of(output.dtype, bytes);
  if (averaged > 1) {
    std::vector<double> sums(row.numbers.size() / static_cast<std::size_t>(averaged));
    for (std::size_t i = 0; i < row.numbers.size(); ++i) {
      sums[i % sums.size()] += row.numbers[i];
    }
    std::ranges::transform(sums, sums.begin(), [&](double sum) { return sum / static_cast<double>(averaged); });
    row.numbers = std::move(sums);
  }
  return row;
}

Row part_of(const ConstTensor& output, std::size_t part) {
  const auto shape = output.shape.subspan(2);
  const std::size_t size =
      std::accumulate(shape.begin(), shape.end(), size_of(output.dtype), std::multiplies<std::size_t>());
  return {{shape.begin(), shape.end()},
          numbers_of(output.dtype, output.bytes.subspan(part * size, size)),
          is_whole(output.dtype)};
}

void give_answers(const ByName<Row>& rows, const ConstTensor* masks, const Postprocessing& wanted,
                  const Geometry& where, std::span<const std::string> classes, const Sink& sink) {
  if (wanted.kind == "detect") {
    give_boxes(rows, masks, wanted, where, classes, sink);
    return;
  }
  const Row& output = rows.find(wanted.output)->second;
  auto found = wanted.kind == "classify" ? classes_of(output, wanted, classes) : segments_of(output, where, classes);
  std::ranges::for_each(found, [&](Answer& answer) { sink(std::move(answer)); });
}

}  // namespace plainconv
