#include "bundle/image_sections.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <span>
#include <string_view>
#include <utility>

#include "text.hpp"

namespace plainconv {
namespace {

using json::Value;
using Names = std::span<const std::string_view>;

constexpr std::size_t most_shown = 60;
constexpr std::int64_t most_side = 32768;
constexpr std::int64_t most_counted = 100000;
constexpr double most_shade = 255;

constexpr std::array<std::string_view, 3> colors = {"rgb", "bgr", "gray"};
constexpr std::array<std::string_view, 4> rules = {"shortest", "longest", "exact", "letterbox"};
constexpr std::array<std::string_view, 3> interpolations = {"bilinear", "bicubic", "nearest"};
constexpr std::array<std::string_view, 2> places = {"centre", "corner"};
constexpr std::array<std::string_view, 2> layouts = {"nchw", "nhwc"};
constexpr std::array<std::string_view, 5> types = {"uint8", "float16", "bfloat16", "float32", "float64"};
constexpr std::array<std::string_view, 3> forms = {"rows", "dense", "final"};
constexpr std::array<std::string_view, 11> preprocessing_keys = {
    "version", "color", "resize", "crop", "letterbox", "scale", "mean", "std", "layout", "type", "crops"};
constexpr std::int64_t second_version = 2;
constexpr std::int64_t ten = 10;
constexpr std::array<std::string_view, 4> resize_keys = {"rule", "size", "interpolation", "antialias"};
constexpr std::array<std::string_view, 3> letterbox_keys = {"value", "stride", "place"};

const std::map<std::string_view, std::vector<std::string_view>> kinds = {
    {"classify", {"version", "kind", "output", "top"}},
    {"segment", {"version", "kind", "output"}},
    {"detect", {"version", "kind", "form", "coordinates", "boxes", "scores", "labels", "count", "score", "iou", "max"}},
    {"none", {"version", "kind"}},
};

[[noreturn]] void refuse(std::string_view name, std::string_view found, std::string_view wanted) {
  throw VocabularyError(text(name, " is ", cut(found, most_shown), ", wanted ", wanted));
}

std::string shown(const Value* value) { return value == nullptr ? "None" : json::shown(*value, most_shown); }

std::string alternatives(Names names) {
  std::string all;
  for (const std::string_view name : names) {
    all += text(all.empty() ? "" : " or ", repr(name));
  }
  return all;
}

std::string listed(Names names) {
  std::string all;
  for (const std::string_view name : names) {
    all += text(all.empty() ? "" : ", ", name);
  }
  return all;
}

bool is_null(const Value& value) { return std::holds_alternative<std::nullptr_t>(value); }

std::optional<double> number_in(const Value& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    return static_cast<double>(*integer);
  }
  const auto* number = std::get_if<double>(&value);
  return number != nullptr && std::isfinite(*number) ? std::optional(*number) : std::nullopt;
}

/// The member that is known to be there.
const Value& at(const Value& data, std::string_view key) { return *json::find(data, key); }

/// The version, of those that there are.
std::int64_t version_of(const Value& data) {
  const Value* version = json::find(data, "version");
  const auto* number = version == nullptr ? nullptr : std::get_if<std::int64_t>(version);
  if (number == nullptr || *number < 1 || *number > second_version) {
    refuse("version", shown(version), "1 or 2");
  }
  return *number;
}

void check_there(const Value& data, Names names, std::string_view where) {
  for (const std::string_view name : names) {
    if (json::find(data, name) == nullptr) {
      throw VocabularyError(text(where, name, " is missing"));
    }
  }
}

void check_known(std::string_view key, Names names, std::string_view where) {
  if (std::ranges::find(names, key) == names.end()) {
    throw VocabularyError(text(where, key, " is unknown, wanted ", listed(names)));
  }
}

void check_keys(const Value& data, Names names, std::string_view where) {
  const auto* object = std::get_if<json::Object>(&data);
  if (object == nullptr) {
    refuse(where.substr(0, where.size() - 1), shown(&data), "an object or null");
  }
  check_there(data, names, where);
  for (const json::Member& member : *object) {
    check_known(member.key, names, where);
  }
}

std::string choice(const Value& data, std::string_view key, Names wanted, std::string_view where = "") {
  const Value& value = at(data, key);
  const auto* found = std::get_if<std::string>(&value);
  if (found == nullptr || std::ranges::find(wanted, *found) == wanted.end()) {
    refuse(text(where, key), shown(&value), alternatives(wanted));
  }
  return *found;
}

std::vector<std::int64_t> sizes(const Value& value, std::string_view name, std::size_t least, std::size_t most) {
  std::vector<std::int64_t> found;
  if (const auto* array = std::get_if<json::Array>(&value)) {
    for (const Value& each : *array) {
      const auto* side = std::get_if<std::int64_t>(&each);
      if (side != nullptr && *side >= 1 && *side <= most_side) {
        found.push_back(*side);
      }
    }
    if (found.size() == array->size() && found.size() >= least && found.size() <= most) {
      return found;
    }
  }
  const std::string count = least == most ? text(least) : text(least, " or ", most);
  refuse(name, shown(&value), text(count, " whole numbers from 1 to ", most_side));
}

std::vector<double> numbers(const Value& value, std::string_view name, std::size_t count) {
  std::vector<double> found;
  if (const auto* array = std::get_if<json::Array>(&value)) {
    for (const Value& each : *array) {
      if (const auto number = number_in(each)) {
        found.push_back(*number);
      }
    }
    if (found.size() == array->size() && found.size() == count) {
      return found;
    }
  }
  refuse(name, shown(&value), text(count, " numbers, one a channel"));
}

Resize resize_of_json(const Value& data) {
  check_keys(data, resize_keys, "resize.");
  Resize resize;
  resize.rule = choice(data, "rule", rules, "resize.");
  const auto* antialias = std::get_if<bool>(&at(data, "antialias"));
  if (antialias == nullptr) {
    refuse("resize.antialias", shown(&at(data, "antialias")), "true or false");
  }
  const bool is_two = resize.rule == "exact" || resize.rule == "letterbox";
  resize.size = sizes(at(data, "size"), "resize.size", is_two ? 2 : 1, is_two || resize.rule == "shortest" ? 2 : 1);
  resize.interpolation = choice(data, "interpolation", interpolations, "resize.");
  resize.antialias = *antialias;
  return resize;
}

Letterbox letterbox_of_json(const Value& data, std::size_t channels) {
  check_keys(data, letterbox_keys, "letterbox.");
  Letterbox box;
  box.value = numbers(at(data, "value"), "letterbox.value", channels);
  if (!std::ranges::all_of(box.value, [](double each) { return each >= 0 && each <= most_shade; })) {
    refuse("letterbox.value", shown(&at(data, "value")), "numbers from 0 to 255");
  }
  const Value& stride = at(data, "stride");
  if (!is_null(stride)) {
    box.stride = sizes(Value(json::Array{stride}), "letterbox.stride", 1, 1).front();
  }
  box.place = choice(data, "place", places, "letterbox.");
  return box;
}

bool are_all(const std::vector<double>& values, double wanted) {
  return std::ranges::all_of(values, [&](double each) { return each == wanted; });
}

/// What a value of this key has to be; empty where it is that, or the key has no such rule.
std::string_view wanted_of(std::string_view key, const Value& value) {
  const auto* name = std::get_if<std::string>(&value);
  const bool is_name = name != nullptr && !name->empty();
  if (key == "output" || key == "boxes" || key == "scores") {
    return is_name ? "" : "the name of an output";
  }
  if (key == "labels" || key == "count" || key == "masks") {
    return is_name || is_null(value) ? "" : "the name of an output or null";
  }
  if (key == "top" || key == "max") {
    const auto* count = std::get_if<std::int64_t>(&value);
    return count != nullptr && *count >= 1 && *count <= most_counted ? "" : "a whole number from 1 to 100000";
  }
  if (key == "score" || key == "iou") {
    const auto number = number_in(value);
    return number && *number >= 0 && *number <= 1 ? "" : "a number from 0 to 1";
  }
  if (key == "coordinates") {
    return name != nullptr && (*name == "xyxy" || *name == "cxcywh") ? "" : "'xyxy' or 'cxcywh'";
  }
  if (key == "form") {
    const bool is_form = name != nullptr && std::ranges::find(forms, *name) != forms.end();
    return is_form ? "" : "'rows' or 'dense' or 'final'";
  }
  return "";
}

std::string name_at(const Value& data, std::string_view key) {
  const Value* value = json::find(data, key);
  const auto* name = value == nullptr ? nullptr : std::get_if<std::string>(value);
  return name == nullptr ? "" : *name;
}

}  // namespace

Preprocessing preprocessing_of_json(const Value& data) {
  const bool has_crops = version_of(data) == second_version;
  check_keys(data, Names(preprocessing_keys).first(preprocessing_keys.size() - (has_crops ? 0 : 1)), "");
  Preprocessing found;
  found.color = choice(data, "color", colors);
  const std::size_t channels = found.color == "gray" ? 1 : 3;
  if (!is_null(at(data, "resize"))) {
    found.resize = resize_of_json(at(data, "resize"));
  }
  if (!is_null(at(data, "crop"))) {
    found.crop = sizes(at(data, "crop"), "crop", 2, 2);
  }
  if (!is_null(at(data, "letterbox"))) {
    found.letterbox = letterbox_of_json(at(data, "letterbox"), channels);
  }
  found.scale = numbers(Value(json::Array{at(data, "scale")}), "scale", 1).front();
  found.mean = numbers(at(data, "mean"), "mean", channels);
  found.std = numbers(at(data, "std"), "std", channels);
  found.layout = choice(data, "layout", layouts);
  found.type = choice(data, "type", types);
  if (has_crops) {
    const auto* crops = std::get_if<std::int64_t>(&at(data, "crops"));
    if (crops == nullptr || *crops != ten) {
      refuse("crops", shown(&at(data, "crops")), text(ten));
    }
    found.crops = *crops;
  }
  if (found.scale <= 0) {
    refuse("scale", shown(&at(data, "scale")), "a number above 0");
  }
  if (std::ranges::min(found.std) <= 0) {
    refuse("std", shown(&at(data, "std")), "numbers above 0");
  }
  if (found.letterbox.has_value() != (found.resize && found.resize->rule == "letterbox")) {
    throw VocabularyError("letterbox and the rule 'letterbox' of resize go together, wanted both or neither");
  }
  if (found.type == "uint8" && !(found.scale == 1 && are_all(found.mean, 0) && are_all(found.std, 1))) {
    throw VocabularyError("type is 'uint8', wanted with it scale 1, mean 0 and std 1: pixels as they are");
  }
  if (has_crops && (!found.crop || found.letterbox)) {
    throw VocabularyError(text("crops is ", ten, ", wanted with it crop, their size, and no letterbox"));
  }
  return found;
}

Postprocessing postprocessing_of_json(const Value& data) {
  const std::int64_t version = version_of(data);
  const Value* given = json::find(data, "kind");
  const auto* kind = given == nullptr ? nullptr : std::get_if<std::string>(given);
  const auto known = kind == nullptr ? kinds.end() : kinds.find(*kind);
  if (known == kinds.end()) {
    refuse("kind", shown(given), "'classify' or 'segment' or 'detect' or 'none'");
  }
  std::vector<std::string_view> names = known->second;
  if (version == second_version && *kind == "detect") {
    names.emplace_back("masks");
  }
  check_there(data, names, "");
  for (const auto& [key, value] : std::get<json::Object>(data)) {
    check_known(key, names, "");
    if (const std::string_view wanted = wanted_of(key, value); !wanted.empty()) {
      refuse(key, shown(&value), wanted);
    }
  }
  Postprocessing found;
  found.kind = *kind;
  found.output = name_at(data, "output");
  found.form = name_at(data, "form");
  found.coordinates = name_at(data, "coordinates");
  found.boxes = name_at(data, "boxes");
  found.scores = name_at(data, "scores");
  found.labels = name_at(data, "labels");
  found.count = name_at(data, "count");
  found.masks = name_at(data, "masks");
  if (found.kind == "classify") {
    found.top = std::get<std::int64_t>(at(data, "top"));
  }
  if (found.kind == "detect") {
    found.score = *number_in(at(data, "score"));
    found.iou = *number_in(at(data, "iou"));
    found.max = std::get<std::int64_t>(at(data, "max"));
  }
  return found;
}

}  // namespace plainconv
