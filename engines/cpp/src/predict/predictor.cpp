#include "predict/predictor.hpp"

#include <algorithm>
#include <utility>

#include "bundle/image_rules.hpp"
#include "predict/pixels.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

bool is_real(const TensorRecord& spec) { return spec.dtype.find("float") != std::string::npos; }

/// Boxes by the outputs' names, else the first [batch, classes] are classes.
std::optional<Postprocessing> default_of(const std::vector<TensorRecord>& outputs) {
  const auto has = [&](std::string_view name, std::size_t rank, bool real) {
    return std::ranges::any_of(outputs, [&](const TensorRecord& spec) {
      return spec.name == name && spec.shape.size() == rank && is_real(spec) == real && spec.dtype != "bool";
    });
  };
  Postprocessing found;
  if (has("boxes", 3, true) && has("scores", 2, true) && has("labels", 2, false)) {
    found.kind = "detect";
    found.form = "final";
    found.coordinates = "xyxy";
    found.boxes = "boxes";
    found.scores = "scores";
    found.labels = "labels";
    found.count = has("count", 1, false) || has("count", 2, false) ? "count" : "";
    const auto masks = std::ranges::find(outputs, "masks", &TensorRecord::name);
    const auto boxes = std::ranges::find(outputs, "boxes", &TensorRecord::name);
    const bool are_of_boxes = masks != outputs.end() && masks->shape.size() == 4 && masks->shape[1] == boxes->shape[1];
    found.masks = are_of_boxes ? "masks" : "";
    return found;
  }
  for (const TensorRecord& spec : outputs) {
    if (spec.shape.size() == 2 && spec.shape[1] != Axis(std::int64_t{1}) && is_real(spec)) {
      found.kind = "classify";
      found.output = spec.name;
      return found;
    }
  }
  return std::nullopt;
}

std::vector<std::string> names_of(const Postprocessing& wanted) {
  std::vector<std::string> names;
  for (const std::string* name :
       {&wanted.output, &wanted.boxes, &wanted.scores, &wanted.labels, &wanted.count, &wanted.masks}) {
    if (!name->empty() && std::ranges::find(names, *name) == names.end()) {
      names.push_back(*name);
    }
  }
  return names;
}

const Preprocessing& preprocessing_of(const Manifest& manifest) {
  if (!manifest.preprocessing) {
    throw EngineError("the bundle says not how an image becomes its input; export it with --preprocessing");
  }
  return *manifest.preprocessing;
}

Postprocessing postprocessing_of(const Manifest& manifest) {
  const auto found = manifest.postprocessing ? manifest.postprocessing : default_of(manifest.outputs);
  if (!found || found->kind == "none") {
    std::vector<std::string> all;
    std::ranges::transform(specs_of(manifest.outputs), std::back_inserter(all), text_of);
    throw EngineError(text("the bundle says not what ", joined(all, ", "), " means; export it with --postprocess"));
  }
  return *found;
}

}  // namespace

Predictor::Predictor(const Manifest& manifest, std::int64_t rows)
    : preprocessing_(preprocessing_of(manifest)),
      postprocessing_(postprocessing_of(manifest)),
      classes_(manifest.classes),
      spec_(spec_of(manifest.inputs.front())),
      rows_(rows),
      reads_(names_of(postprocessing_)) {
  if (const auto* fixed = std::get_if<std::int64_t>(&spec_.shape.front())) {
    rows_ = *fixed;
  }
  if (const auto problem = not_averaged(preprocessing_, postprocessing_)) {
    throw EngineError(*problem + "; export it with another --preprocessing");
  }
  std::ranges::transform(manifest.outputs, std::back_inserter(outputs_), &TensorRecord::name);
}

Prepared Predictor::prepare(std::span<const std::byte> file, std::string_view name, std::int64_t most) const {
  return prepared(upright(file, head_of(file, name, most), preprocessing_.color));
}

Prepared Predictor::prepare(const Pixels& image) const { return prepared(upright(image, preprocessing_.color)); }

Prepared Predictor::prepared(Upright upright) const {
  std::array<std::optional<std::int64_t>, 2> given;
  for (std::size_t axis = 0; axis < given.size(); ++axis) {
    const Axis& side = spec_.shape.at(axis + (preprocessing_.layout == "nchw" ? 2 : 1));
    if (const auto* fixed = std::get_if<std::int64_t>(&side)) {
      given.at(axis) = *fixed;
    }
  }
  const Geometry where = geometry_of(preprocessing_, {upright.image.height, upright.image.width}, given);
  std::string said = std::move(upright.said);
  if (where.resized != where.image) {
    said += text(", resized to ", where.resized[1], "×", where.resized[0]);
  }
  if (where.input != where.resized) {
    const std::string cut = preprocessing_.crops > 1 ? text(preprocessing_.crops, " crops of") : "its middle";
    said += text(", ", preprocessing_.letterbox ? "letterboxed to" : cut, " ", where.input[1], "×", where.input[0]);
  }
  return {input_of(std::move(upright.image), preprocessing_, where, rows_), where, std::move(said)};
}

void Predictor::give(std::span<const ConstTensor> outputs, const Geometry& where, const Sink& sink) const {
  ByName<Row> rows;
  const ConstTensor* masks = nullptr;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs_[i] == postprocessing_.masks) {
      masks = &outputs[i];
    } else if (std::ranges::find(reads_, outputs_[i]) != reads_.end()) {
      rows.emplace(outputs_[i], row_of(outputs[i], preprocessing_.crops));
    }
  }
  give_answers(rows, masks, postprocessing_, where, classes_, sink);
}

std::vector<Answer> Predictor::answers(std::span<const ConstTensor> outputs, const Geometry& where) const {
  std::vector<Answer> found;
  give(outputs, where, [&](Answer&& answer) { found.push_back(std::move(answer)); });
  return found;
}

std::string Predictor::said(std::span<const ConstTensor> outputs, const Geometry& where) const {
  std::string all;
  give(outputs, where, [&](Answer&& answer) { all += text(all.empty() ? "" : ", ", json_of(answer)); });
  return text("[", all, "]");
}

}  // namespace plainconv
