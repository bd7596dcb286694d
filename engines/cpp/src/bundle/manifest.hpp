// What a bundle's manifest says, as records. A name here is the name in exporter/BUNDLE.md; evidence for people is left
// out.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "plainconv/bundle.hpp"

namespace plainconv {

inline constexpr std::string_view format_name = "plainconv-bundle";
inline constexpr std::int64_t format_version = 3;
inline constexpr std::string_view manifest_name = "manifest.json";
inline constexpr std::string_view model_name = "model.onnx";
inline constexpr std::string_view model_data_name = "model.onnx.data";

template <class T>
using ByName = std::map<std::string, T, std::less<>>;

/// A tensor whose dtype may be none: rules.hpp looks at it.
struct TensorRecord {
  std::string name;
  std::string dtype;
  std::vector<Axis> shape;
};

struct FileRecord {
  std::int64_t size = 0;
  std::string sha256;

  bool operator==(const FileRecord&) const = default;
};

struct Link {
  std::string step;
  std::string sha256;
  std::optional<std::string> parent;
  std::vector<std::string> files;
};

struct ShapeRange {
  std::vector<std::int64_t> min;
  std::vector<std::int64_t> opt;
  std::vector<std::int64_t> max;
};

struct GraphRecord {
  std::string file;
  std::string precision;
  std::string sha256;
  std::string onnx_sha256;
  std::string reference;
  double tolerance = 0;
};

struct EngineRecord {
  std::string file;
  std::string backend;
  std::string backend_version;
  std::string precision;
  bool tf32 = false;
  std::vector<std::string> targets;
  std::optional<std::string> device;
  std::vector<std::vector<std::pair<std::string, ShapeRange>>> profiles;
  std::int64_t size = 0;
  std::string sha256;
  std::string onnx_sha256;
  std::vector<std::pair<std::string, std::int64_t>> options;  // of its build, in the order of their names
  std::optional<std::string> log;
};

struct PartRecord {
  std::string name;
  std::string file;
  std::string sha256;
  std::int64_t device = 0;
  std::int64_t stream = 0;
  std::vector<TensorRecord> inputs;
  std::vector<TensorRecord> outputs;
  ByName<std::optional<std::string>> sources;  // empty: the network's
};

struct SplitRecord {
  std::string precision;
  std::string onnx_sha256;
  std::int64_t devices = 0;
  std::int64_t streams = 0;
  std::vector<PartRecord> parts;
  ByName<std::optional<std::string>> results;
  std::vector<EngineRecord> engines;
};

struct Resize {
  std::string rule;
  std::vector<std::int64_t> size;
  std::string interpolation;
  bool antialias = false;
};

struct Letterbox {
  std::vector<double> value;
  std::optional<std::int64_t> stride;
  std::string place;
};

/// How an image becomes the input.
struct Preprocessing {
  std::string color;
  std::optional<Resize> resize;
  std::optional<std::vector<std::int64_t>> crop;
  std::optional<Letterbox> letterbox;
  double scale = 1;
  std::vector<double> mean;
  std::vector<double> std;
  std::string layout;
  std::string type;
  std::int64_t crops = 1;
};

/// What the outputs mean, by their names; empty where there is none.
struct Postprocessing {
  std::string kind;
  std::string output;
  std::int64_t top = 5;
  std::string form;
  std::string coordinates;
  std::string boxes;
  std::string scores;
  std::string labels;
  std::string count;
  std::string masks;
  double score = 0.25;
  double iou = 0.45;
  std::int64_t max = 300;
};

struct Manifest {
  std::string name;
  std::vector<TensorRecord> inputs;
  std::vector<TensorRecord> outputs;
  std::optional<Preprocessing> preprocessing;
  std::optional<Postprocessing> postprocessing;
  std::vector<std::string> classes;
  std::vector<Link> chain;
  std::vector<GraphRecord> graphs;
  std::vector<GraphRecord> cpu_graphs;  // laid out for what runs them on a CPU
  std::vector<EngineRecord> engines;
  std::vector<SplitRecord> splits;
  ByName<FileRecord> files;
  std::vector<std::string> file_names;  // those of `files`, in the manifest's order
};

/// The dtype of this name; nothing for no dtype.
[[nodiscard]] std::optional<DType> dtype_of_name(std::string_view name) noexcept;

/// Of a record that the rules hold for.
[[nodiscard]] TensorSpec spec_of(const TensorRecord& record);
[[nodiscard]] std::vector<TensorSpec> specs_of(const std::vector<TensorRecord>& records);

}  // namespace plainconv
