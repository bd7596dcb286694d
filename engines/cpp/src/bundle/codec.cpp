#include "bundle/codec.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

#include "bundle/image_sections.hpp"
#include "bundle/json.hpp"
#include "bundle/sha256.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::string_view foreign = "it was not written by this program; exporter/BUNDLE.md has the rules";
constexpr std::size_t most_shown = 60;
constexpr std::size_t hash_digits = 64;

using json::find;
using json::Value;

/// What a key must be, and the word for it.
template <class T>
constexpr std::string_view kind{};
template <>
constexpr std::string_view kind<std::string> = "str";
template <>
constexpr std::string_view kind<std::int64_t> = "int";
template <>
constexpr std::string_view kind<double> = "float";
template <>
constexpr std::string_view kind<bool> = "bool";
template <>
constexpr std::string_view kind<json::Array> = "list";
template <>
constexpr std::string_view kind<json::Object> = "dict";

[[noreturn]] void refuse(const Value* value, std::string_view key, std::string_view wanted, std::string_view where) {
  const std::string found =
      value == nullptr ? "missing" : std::string(cut(json::shown(*value, most_shown), most_shown));
  throw BundleError(
      text(manifest_name, ": ", escaped(text(where, key)), " is ", found, ", wanted ", wanted, "; ", foreign));
}

/// `value` as a T. `key` and `where` say what it is in the error.
template <class T>
const T& as(const Value* value, std::string_view key, std::string_view where) {
  const T* taken = value == nullptr ? nullptr : std::get_if<T>(value);
  if (taken == nullptr) {
    refuse(value, key, kind<T>, where);
  }
  return *taken;
}

/// The member `key` of `data`, which must be a T.
template <class T>
const T& take(const Value& data, std::string_view key, std::string_view where = "") {
  return as<T>(find(data, key), key, where);
}

double take_number(const Value& data, std::string_view key, std::string_view where) {
  const Value* value = find(data, key);
  if (value != nullptr) {
    if (const auto* integer = std::get_if<std::int64_t>(value)) {
      return static_cast<double>(*integer);
    }
  }
  return as<double>(value, key, where);
}

/// The same; null where it is null.
template <class T>
const T* take_or_null(const Value& data, std::string_view key, std::string_view where = "") {
  const Value* value = find(data, key);
  return value != nullptr && std::holds_alternative<std::nullptr_t>(*value) ? nullptr : &as<T>(value, key, where);
}

std::optional<std::string> take_optional(const Value& data, std::string_view key, std::string_view where) {
  const auto* value = take_or_null<std::string>(data, key, where);
  return value == nullptr ? std::nullopt : std::optional(*value);
}

/// Calls `each` with every item, which must be a T, of the list `key`.
template <class T, class F>
void for_all(const Value& data, std::string_view key, std::string_view where, F each) {
  const auto& items = take<json::Array>(data, key, where);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!std::holds_alternative<T>(items[i])) {
      refuse(&items[i], key, kind<T>, text(where, "[", i, "] of "));
    }
    each(std::get<T>(items[i]));
  }
}

template <class T>
std::vector<T> take_all(const Value& data, std::string_view key, std::string_view where = "") {
  std::vector<T> all;
  for_all<T>(data, key, where, [&](const T& item) { all.push_back(item); });
  return all;
}

/// `make(item, "key[0].")` of every item of the list `key`.
template <class F>
auto members(const Value& data, std::string_view key, std::string_view where, F make) {
  std::vector<decltype(make(data, std::string()))> all;
  const auto& items = take<json::Array>(data, key, where);
  for (std::size_t i = 0; i < items.size(); ++i) {
    all.push_back(make(items[i], text(where, key, "[", i, "].")));
  }
  return all;
}

TensorRecord tensor_of_json(const Value& data, const std::string& at) {
  std::vector<Axis> shape;
  for (const Value& axis : take<json::Array>(data, "shape", at)) {
    if (const auto* name = std::get_if<std::string>(&axis)) {
      shape.emplace_back(*name);
    } else {
      shape.emplace_back(as<std::int64_t>(&axis, "shape", at));
    }
  }
  return {take<std::string>(data, "name", at), take<std::string>(data, "dtype", at), std::move(shape)};
}

Link link_of_json(const Value& data, const std::string& at) {
  std::optional<std::string> parent = take_optional(data, "from", at);
  const auto& step = take<std::string>(data, "step", at);
  return {step, take<std::string>(data, "sha256", at), std::move(parent), take_all<std::string>(data, "files", at)};
}

std::vector<std::pair<std::string, std::int64_t>> counts(const Value& data, std::string_view key,
                                                         const std::string& at) {
  std::vector<std::pair<std::string, std::int64_t>> all;
  for (const auto& [name, count] : take<json::Object>(data, key, at)) {
    all.emplace_back(name, as<std::int64_t>(&count, name, text(at, key, ".")));
  }
  std::ranges::sort(all);
  return all;
}

ByName<std::optional<std::string>> names_or_null(const Value& data, std::string_view key, const std::string& at) {
  ByName<std::optional<std::string>> all;
  for (const auto& [name, value] : take<json::Object>(data, key, at)) {
    if (std::holds_alternative<std::nullptr_t>(value)) {
      all.emplace(name, std::nullopt);
    } else {
      all.emplace(name, as<std::string>(&value, name, text(at, key, ".")));
    }
  }
  return all;
}

GraphRecord graph_of_json(const Value& data, const std::string& at) {
  GraphRecord graph;
  graph.file = take<std::string>(data, "file", at);
  graph.precision = take<std::string>(data, "precision", at);
  graph.sha256 = take<std::string>(data, "sha256", at);
  graph.onnx_sha256 = take<std::string>(data, "onnx_sha256", at);
  (void)counts(data, "layers", at);
  graph.reference = take<std::string>(data, "reference", at);
  graph.tolerance = take_number(data, "tolerance", at);
  for_all<json::Object>(data, "kept", at, [](const json::Object& /*evidence*/) {});
  take_or_null<json::Object>(data, "calibration", at);
  return graph;
}

std::vector<std::pair<std::string, ShapeRange>> profile_of_json(const json::Object& inputs, const std::string& at) {
  std::vector<std::pair<std::string, ShapeRange>> profile;
  for (const json::Member& input : inputs) {
    const auto sizes = [&](std::string_view key) {
      return take_all<std::int64_t>(input.value, key, text(at, "profiles."));
    };
    profile.emplace_back(input.key, ShapeRange{sizes("min"), sizes("opt"), sizes("max")});
  }
  return profile;
}

EngineRecord engine_of_json(const Value& data, const std::string& at) {
  EngineRecord engine;
  engine.file = take<std::string>(data, "file", at);
  engine.backend = take<std::string>(data, "backend", at);
  engine.backend_version = take<std::string>(data, "backend_version", at);
  engine.precision = take<std::string>(data, "precision", at);
  engine.tf32 = take<bool>(data, "tf32", at);
  engine.targets = take_all<std::string>(data, "targets", at);
  engine.device = take_optional(data, "device", at);
  std::vector<const json::Object*> profiles;
  for_all<json::Object>(data, "profiles", at, [&](const json::Object& inputs) { profiles.push_back(&inputs); });
  for (const json::Object* inputs : profiles) {
    engine.profiles.push_back(profile_of_json(*inputs, at));
  }
  take_number(data, "seconds", at);
  engine.size = take<std::int64_t>(data, "size", at);
  engine.sha256 = take<std::string>(data, "sha256", at);
  engine.onnx_sha256 = take<std::string>(data, "onnx_sha256", at);
  (void)counts(data, "layers", at);
  engine.options = counts(data, "options", at);
  engine.log = take_optional(data, "log", at);
  for_all<std::string>(data, "warnings", at, [](const std::string& /*evidence*/) {});
  return engine;
}

PartRecord part_of_json(const Value& data, const std::string& at) {
  PartRecord part;
  part.name = take<std::string>(data, "name", at);
  part.file = take<std::string>(data, "file", at);
  part.sha256 = take<std::string>(data, "sha256", at);
  part.device = take<std::int64_t>(data, "device", at);
  part.stream = take<std::int64_t>(data, "stream", at);
  part.inputs = members(data, "inputs", at, tensor_of_json);
  part.outputs = members(data, "outputs", at, tensor_of_json);
  part.sources = names_or_null(data, "sources", at);
  return part;
}

SplitRecord split_of_json(const Value& data, const std::string& at) {
  SplitRecord split;
  split.precision = take<std::string>(data, "precision", at);
  split.onnx_sha256 = take<std::string>(data, "onnx_sha256", at);
  split.devices = take<std::int64_t>(data, "devices", at);
  split.streams = take<std::int64_t>(data, "streams", at);
  split.parts = members(data, "parts", at, part_of_json);
  split.results = names_or_null(data, "results", at);
  split.engines = members(data, "engines", at, engine_of_json);
  take<json::Object>(data, "plan", at);
  return split;
}

/// Where the 64 digits of the line for the manifest's own hash stand in `line`; nothing where it is no such line.
std::optional<std::size_t> own_hash_in(std::string_view line) {
  constexpr std::string_view before = R"(  "manifest_sha256": ")";
  if (!line.starts_with(before)) {
    return std::nullopt;
  }
  const std::string_view rest = line.substr(before.size());
  const bool whole =
      rest.size() > hash_digits && (rest.substr(hash_digits) == "\"" || rest.substr(hash_digits) == "\",");
  return whole && is_sha256(rest.substr(0, hash_digits)) ? std::optional(before.size()) : std::nullopt;
}

/// What a section of its own version says; nothing where it is null, or has no version, as those once written.
template <class F>
auto said(const Value& data, std::string_view key, F read) -> std::optional<decltype(read(data))> {
  take_or_null<json::Object>(data, key);
  const Value& section = *find(data, key);
  if (find(section, "version") == nullptr) {
    return std::nullopt;
  }
  try {
    return read(section);
  } catch (const VocabularyError& error) {
    throw BundleError(text(manifest_name, ": ", escaped(text(key, ".", error.what())), "; ", foreign));
  }
}

Manifest manifest_of_json(const Value& data) {
  const auto& tools = take<json::Object>(data, "tools");
  Manifest manifest;
  manifest.name = take<std::string>(data, "name");
  manifest.inputs = members(data, "inputs", "", tensor_of_json);
  manifest.outputs = members(data, "outputs", "", tensor_of_json);
  manifest.preprocessing = said(data, "preprocessing", preprocessing_of_json);
  if (find(data, "postprocessing") != nullptr) {
    manifest.postprocessing = said(data, "postprocessing", postprocessing_of_json);
  }
  if (find(data, "classes") != nullptr) {
    manifest.classes = take_all<std::string>(data, "classes");
  }
  take<json::Object>(data, "source");
  take<json::Object>(data, "counts");
  for (const auto& [tool, version] : tools) {
    as<std::string>(&version, tool, "tools.");
  }
  for_all<json::Object>(data, "parities", "", [](const json::Object& /*evidence*/) {});
  manifest.chain = members(data, "chain", "", link_of_json);
  manifest.graphs = members(data, "graphs", "", graph_of_json);
  if (find(data, "cpu_graphs") != nullptr) {
    manifest.cpu_graphs = members(data, "cpu_graphs", "", graph_of_json);
  }
  manifest.engines = members(data, "engines", "", engine_of_json);
  if (find(data, "splits") != nullptr) {
    manifest.splits = members(data, "splits", "", split_of_json);
  }
  for (const auto& [name, file] : take<json::Object>(data, "files")) {
    const std::string at = text("files.", name, ".");
    const auto size = take<std::int64_t>(file, "size", at);
    manifest.files.emplace(name, FileRecord{size, take<std::string>(file, "sha256", at)});
    manifest.file_names.push_back(name);
  }
  take<std::string>(data, "written");
  return manifest;
}

}  // namespace

std::optional<std::string> sha256_in_manifest(std::string_view raw) {
  std::optional<std::size_t> digits_at;
  for (std::size_t start = 0; start <= raw.size();) {
    const std::size_t end = std::min(raw.find('\n', start), raw.size());
    if (const auto found = own_hash_in(raw.substr(start, end - start))) {
      if (digits_at) {
        return std::nullopt;  // two of them
      }
      digits_at = start + *found;
    }
    start = end + 1;
  }
  if (!digits_at) {
    return std::nullopt;
  }
  Sha256 digest;
  digest.update(raw.substr(0, *digits_at));
  digest.update(std::string(hash_digits, '0'));
  digest.update(raw.substr(*digits_at + hash_digits));
  const std::string_view own_hash = raw.substr(*digits_at, hash_digits);
  return digest.digits() == own_hash ? std::optional<std::string>(own_hash) : std::nullopt;
}

Manifest manifest_of_bytes(std::string_view raw) {
  if (!sha256_in_manifest(raw)) {
    throw BundleError(text(manifest_name,
                           " is damaged (its bytes do not have the manifest_sha256 it carries); export "
                           "again or restore it"));
  }
  Value data;
  try {
    data = json::parse(raw);
  } catch (const json::SyntaxError& error) {
    throw BundleError(text(manifest_name, " is not JSON (", error.what(), "); ", foreign));
  }
  const Value* format = find(data, "format");
  const auto* name = format == nullptr ? nullptr : std::get_if<std::string>(format);
  if (name == nullptr || *name != format_name) {
    throw BundleError(text(manifest_name, R"( has no "format": ")", format_name, R"("; )", foreign));
  }
  const auto version = take<std::int64_t>(data, "format_version");
  if (version != format_version) {
    throw BundleError(text(manifest_name, " has format version ", version, ", this program reads ", format_version,
                           "; ", version < format_version ? "export again, or " : "",
                           "install the plainconv that wrote it (its version is under tools)"));
  }
  return manifest_of_json(data);
}

}  // namespace plainconv
