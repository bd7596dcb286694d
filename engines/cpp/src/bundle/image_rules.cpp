#include "bundle/image_rules.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::int64_t box_numbers = 4;

/// Channels and sides in the order of the input; no value for a side that depends on the image.
std::vector<std::optional<std::int64_t>> shape_of(const Preprocessing& wanted) {
  std::vector<std::optional<std::int64_t>> sides(2);
  if (wanted.crop) {
    sides = {wanted.crop->at(0), wanted.crop->at(1)};
  } else if (wanted.resize && wanted.resize->size.size() == 2 && wanted.resize->rule != "shortest" &&
             !(wanted.letterbox && wanted.letterbox->stride)) {
    sides = {wanted.resize->size.at(0), wanted.resize->size.at(1)};
  }
  const auto channels = static_cast<std::int64_t>(wanted.mean.size());
  sides.insert(wanted.layout == "nchw" ? sides.begin() : sides.end(), channels);
  return sides;
}

std::string said_of(const std::vector<TensorRecord>& specs) {
  std::vector<std::string> all;
  std::ranges::transform(specs, std::back_inserter(all),
                         [](const TensorRecord& spec) { return text_of(spec_of(spec)); });
  return joined(all, ", ");
}

std::optional<std::string> misfit(const Preprocessing& wanted, const std::vector<TensorRecord>& inputs) {
  const auto shape = shape_of(wanted);
  bool fits = inputs.size() == 1 && inputs.front().shape.size() == shape.size() + 1;
  std::vector<std::string> sides;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    sides.push_back(shape[i] ? text(*shape[i]) : "any");
    if (fits) {
      const auto* side = std::get_if<std::int64_t>(&inputs.front().shape[i + 1]);
      const bool is_any = !wanted.resize && !wanted.crop && !shape[i];
      fits = side == nullptr || is_any || (shape[i] && *shape[i] == *side);
    }
  }
  if (fits && wanted.type == inputs.front().dtype) {
    const auto* batch = std::get_if<std::int64_t>(&inputs.front().shape.front());
    if (batch != nullptr && wanted.crops > 1 && *batch < wanted.crops) {
      return text("preprocessing gives ", wanted.crops, " crops of an image, the network takes a batch of ", *batch);
    }
    return std::nullopt;
  }
  return text("preprocessing gives ", wanted.type, "[batch, ", joined(sides, ", "), "], the network takes ",
              said_of(inputs));
}

const TensorRecord& output_of(const std::vector<TensorRecord>& outputs, std::string_view name) {
  return *std::ranges::find(outputs, name, &TensorRecord::name);
}

constexpr std::string_view real = "real numbers";
constexpr std::string_view whole = "whole numbers";

bool is_of(std::string_view dtype, std::string_view kind) {
  const bool is_real = dtype.starts_with("float") || dtype.starts_with("bfloat");
  return kind == real ? is_real : kind == whole ? !is_real : true;
}

struct Reads {
  std::string name;
  std::size_t least;  // axes
  std::size_t most;
  std::string_view numbers;
};

std::vector<Reads> reads_of(const Postprocessing& record) {
  if (record.kind == "classify") {
    return {{record.output, 2, 2, real}};
  }
  if (record.kind == "segment") {
    return {{record.output, 3, 4, "numbers"}};
  }
  if (record.kind == "none") {
    return {};
  }
  const std::size_t scores = record.form == "final" ? 2 : 3;
  std::vector<Reads> all = {{record.boxes, 3, 3, real}, {record.scores, scores, scores, real}};
  if (!record.labels.empty()) {
    all.push_back({record.labels, 2, 2, whole});
  }
  if (!record.count.empty()) {
    all.push_back({record.count, 1, 2, whole});
  }
  if (!record.masks.empty()) {
    all.push_back({record.masks, 4, 4, "numbers"});
  }
  return all;
}

std::optional<std::string> misread_boxes(const Postprocessing& record, const TensorRecord& boxes) {
  const auto* second = std::get_if<std::int64_t>(&boxes.shape.at(1));
  const auto* third = std::get_if<std::int64_t>(&boxes.shape.at(2));
  const std::string reads = text("postprocessing reads ", text_of(spec_of(boxes)));
  if (record.form != "rows" && (third == nullptr || *third != box_numbers)) {
    return reads + " as boxes, wanted 4 numbers each";
  }
  const bool is_short = second != nullptr && *second <= box_numbers;
  if (record.form == "rows" && (record.boxes != record.scores || is_short)) {
    return reads + " as rows, wanted one output [batch, 4 + classes, boxes]";
  }
  if (record.form == "final" && record.labels.empty()) {
    return "postprocessing has form final without labels, wanted the output with each box's class";
  }
  if (record.form != "final" && !record.masks.empty()) {
    return "postprocessing has masks, wanted with them the form final: one of each box";
  }
  return std::nullopt;
}

std::optional<std::string> misread(const Postprocessing& record, const std::vector<TensorRecord>& outputs) {
  for (const std::string* name :
       {&record.output, &record.boxes, &record.scores, &record.labels, &record.count, &record.masks}) {
    if (!name->empty() && std::ranges::find(outputs, *name, &TensorRecord::name) == outputs.end()) {
      std::vector<std::string> given;
      std::ranges::transform(outputs, std::back_inserter(given), &TensorRecord::name);
      return text("postprocessing reads ", *name, ", the network gives ", joined(given, ", "));
    }
  }
  for (const auto& [name, least, most, kind] : reads_of(record)) {
    const TensorRecord& spec = output_of(outputs, name);
    if (spec.shape.size() < least || spec.shape.size() > most || !is_of(spec.dtype, kind)) {
      const std::string axes = least == most ? text(least) : text(least, " or ", most);
      return text("postprocessing reads ", text_of(spec_of(spec)), " as ", record.kind, ", wanted ", kind, " of ", axes,
                  " axes");
    }
  }
  return record.kind == "detect" ? misread_boxes(record, output_of(outputs, record.boxes)) : std::nullopt;
}

std::optional<std::int64_t> classes_of(const Postprocessing& record, const std::vector<TensorRecord>& outputs) {
  const bool is_detector = record.kind == "detect";
  if (record.kind == "none" || record.form == "final") {
    return std::nullopt;
  }
  const TensorRecord& spec = output_of(outputs, is_detector ? record.scores : record.output);
  if (record.kind == "segment" && spec.shape.size() != 4) {
    return std::nullopt;
  }
  const auto* size = std::get_if<std::int64_t>(&spec.shape.at(is_detector && record.form == "dense" ? 2 : 1));
  if (size == nullptr) {
    return std::nullopt;
  }
  return record.form == "rows" ? *size - box_numbers : *size;
}

}  // namespace

std::optional<std::string> not_averaged(const Preprocessing& wanted, const Postprocessing& record) {
  if (wanted.crops == 1 || record.kind == "classify" || record.kind == "none") {
    return std::nullopt;
  }
  return text("preprocessing gives ", wanted.crops, " crops of an image, and postprocessing is ", record.kind,
              ", wanted classify");
}

Problems image_problems(const Manifest& manifest) {
  Problems found;
  if (manifest.preprocessing) {
    if (auto problem = misfit(*manifest.preprocessing, manifest.inputs)) {
      found.push_back(std::move(*problem));
    }
  }
  std::optional<std::int64_t> count;
  if (manifest.postprocessing) {
    if (auto problem = misread(*manifest.postprocessing, manifest.outputs)) {
      found.push_back(std::move(*problem));
    } else {
      count = classes_of(*manifest.postprocessing, manifest.outputs);
    }
    if (auto problem =
            manifest.preprocessing ? not_averaged(*manifest.preprocessing, *manifest.postprocessing) : std::nullopt) {
      found.push_back(std::move(*problem));
    }
  }
  const auto names = static_cast<std::int64_t>(manifest.classes.size());
  if (names != 0 && count && *count != names) {
    found.push_back(text("classes has ", names, " names, the network tells ", *count, " apart"));
  }
  return found;
}

}  // namespace plainconv
