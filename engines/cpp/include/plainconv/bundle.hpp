// Opens a bundle, the folder that `exporter` writes (exporter/BUNDLE.md), and runs its network. No vendor's type is
// here.
//
//     plainconv::Network net = plainconv::open("out/v6");
//     std::vector<float> image(1 * 3 * 224 * 224), logits(1 * 1000);
//     const std::array<std::int64_t, 4> of_image{1, 3, 224, 224};
//     const std::array<std::int64_t, 2> of_logits{1, 1000};
//     const std::array inputs{plainconv::input(std::span<const float>(image), of_image)};
//     const std::array outputs{plainconv::output(std::span<float>(logits), of_logits)};
//     net.run(inputs, outputs);
//     for (const plainconv::Answer& each : net.predict("cat.jpg")) { … each.label, each.score, each.xyxy … }
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace plainconv {

/// What a user can cause or meet: what was found, what was wanted and the remedy, in one line. Nothing else is thrown
/// across this header, but for std::bad_alloc.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What is on disk is not the bundle that its manifest describes.
class BundleError : public Error {
 public:
  using Error::Error;
};

/// A network cannot be loaded or run here, or was given what it does not take.
class EngineError : public Error {
 public:
  using Error::Error;
};

/// An image cannot be taken: it is none, is damaged, too large, or of another size than is wanted.
class ImageError : public Error {
 public:
  explicit ImageError(const std::string& message, bool is_large = false) : Error(message), is_large_(is_large) {}

  /// Whether it has more pixels than are taken.
  [[nodiscard]] bool is_large() const noexcept { return is_large_; }

 private:
  bool is_large_;
};

/// The types of elements, by the names that a manifest has for them. `float8_e4m3fn` is found between parts only.
enum class DType : std::uint8_t {
  bool_,
  int8,
  uint8,
  int32,
  int64,
  float16,
  bfloat16,
  float32,
  float64,
  float8_e4m3fn
};

/// As a manifest spells it: "float32".
[[nodiscard]] std::string_view name_of(DType dtype) noexcept;

/// Bytes of one element.
[[nodiscard]] std::size_t size_of(DType dtype) noexcept;

/// A fixed size (at least 1), or the name of a free axis: axes of one name have one size in any one run.
using Axis = std::variant<std::int64_t, std::string>;

/// One input or output of a network.
struct TensorSpec {
  std::string name;
  DType dtype = DType::float32;
  std::vector<Axis> shape;

  bool operator==(const TensorSpec&) const = default;
};

/// "input float32[batch, 3, 224, 224]".
[[nodiscard]] std::string text_of(const TensorSpec& spec);

/// Where elements are: in the memory of the host, or of the GPU that a network runs on (a split's, of its first).
enum class Memory : std::uint8_t { host, device };

/// Elements in C order in the caller's memory, which must be aligned to the size of one.
///
/// In `Memory::device` they are read and written in place, without a copy. They must begin at a multiple of 256 bytes,
/// as what cudaMalloc gives does, and what writes them must have ended.
struct ConstTensor {
  DType dtype = DType::float32;
  std::span<const std::int64_t> shape;
  std::span<const std::byte> bytes;
  Memory memory = Memory::host;
};

/// The same, to be written to.
struct Tensor {
  DType dtype = DType::float32;
  std::span<const std::int64_t> shape;
  std::span<std::byte> bytes;
  Memory memory = Memory::host;
};

/// Elements in memory of its own.
struct Array {
  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

/// An image in the caller's memory: `height` rows of `width` pixels of `channels` bytes, 3 (RGB) or 1 (shades of gray).
struct Pixels {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 3;
  std::span<const std::uint8_t> bytes;
};

/// Which pixels of an image are of a class: `height` rows of `width`, 1 where it is.
struct Mask {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint8_t> pixels;
};

/// What a network says of an image: a class that it may be, with its share of all; a box of one, left, top, right and
/// bottom in pixels of the image, and its own pixels where the network gives masks; or all pixels of one, whose score
/// is the mean of theirs.
struct Answer {
  std::string label;
  std::int64_t number = 0;
  double score = 0;
  std::optional<std::array<double, 4>> xyxy = {};
  std::optional<Mask> mask = {};
};

/// The DType of a C++ type. float16 and bfloat16 have none: fill in a `Tensor` by hand.
template <class T>
[[nodiscard]] constexpr DType dtype_of() noexcept {
  if constexpr (std::is_same_v<T, bool>) {
    return DType::bool_;
  } else if constexpr (std::is_same_v<T, std::int8_t>) {
    return DType::int8;
  } else if constexpr (std::is_same_v<T, std::uint8_t>) {
    return DType::uint8;
  } else if constexpr (std::is_same_v<T, std::int32_t>) {
    return DType::int32;
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    return DType::int64;
  } else if constexpr (std::is_same_v<T, float>) {
    return DType::float32;
  } else {
    static_assert(std::is_same_v<T, double>, "no DType has this C++ type");
    return DType::float64;
  }
}

/// `values` as an input of this shape; both must outlive it.
template <class T>
[[nodiscard]] ConstTensor input(std::span<const T> values, std::span<const std::int64_t> shape,
                                Memory memory = Memory::host) noexcept {
  return {dtype_of<T>(), shape, std::as_bytes(values), memory};
}

/// `values` as an output of this shape; both must outlive it.
template <class T>
[[nodiscard]] Tensor output(std::span<T> values, std::span<const std::int64_t> shape,
                            Memory memory = Memory::host) noexcept {
  return {dtype_of<T>(), shape, std::as_writable_bytes(values), memory};
}

/// How a network runs.
struct Options {
  /// One of `backends()`, or "auto": the bundle's fastest engine that runs here, or else ONNX Runtime.
  std::string backend = "auto";
  /// One that the bundle holds, or "auto": of the engines that run here the fastest. ONNX Runtime then takes fp32: few
  /// of its kernels on a CPU are faster in another.
  std::string precision = "auto";
  /// The GPU. ONNX Runtime, on the CPU, has 0 only.
  int device = 0;
  /// Not empty: run the parts that the bundle is split into, the split's device i on `devices[i]`: a GPU or, by ONNX
  /// Runtime, a group of this machine's cores. One may stand for several. Of a bundle that is not split one number, as
  /// `device` is.
  std::vector<int> devices = {};
  /// Of ONNX Runtime, for the network or for each place of a split: 0 is one per core.
  int threads = 0;
  /// What a call may take: of a split network, the wait for earlier calls included, and by TensorRT of any.
  std::chrono::duration<double> timeout = std::chrono::seconds(60);
  /// TensorRT-RTX compiles its kernels for a new shape before the first call of it ends, and not beside calls that run
  /// on slower ones meanwhile: what is measured then is what serves later.
  bool eager_kernels = false;
  /// Is told by `open`, in a line each, why what would be faster does not run here and what runs in its place, and what
  /// could be better about an engine. Empty: nobody is.
  std::function<void(const std::string& line)> warn = {};
};

class Runner;
class Checks;
class Predictor;
struct Bundle;

/// A network ready to run, from any number of threads at once. No call may be under way when it is moved or destroyed.
class Network {
 public:
  Network(Network&&) noexcept;
  Network& operator=(Network&&) noexcept;
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;
  ~Network();

  /// Run once: `inputs` in the order of `this->inputs()`, results into `outputs`, in the order of `this->outputs()`.
  ///
  /// Allocates nothing itself once it has met the shapes; the runtime behind it may. Throws EngineError for what is not
  /// as the specs say, for outputs that overlap an input or each other, and where the run fails.
  void run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) const;

  /// Run once, into new arrays.
  [[nodiscard]] std::vector<Array> run(std::span<const ConstTensor> inputs) const;

  /// What the network says of an image, as the bundle's preprocessing and postprocessing have it, the best first: of a
  /// PNG or JPEG file, of such a file's bytes, or of pixels. Python's `net.predict` answers the same.
  ///
  /// Throws ImageError for what is no image, EngineError where the bundle says nothing of images or the run fails.
  [[nodiscard]] std::vector<Answer> predict(const std::filesystem::path& file) const;
  [[nodiscard]] std::vector<Answer> predict(std::span<const std::byte> file) const;
  [[nodiscard]] std::vector<Answer> predict(const Pixels& image) const;
  /// For servers, which run the network themselves in between: see src/predict/predictor.hpp. Throws EngineError where
  /// the bundle says nothing of images.
  [[nodiscard]] const Predictor& predictor() const;

  [[nodiscard]] std::span<const TensorSpec> inputs() const noexcept;
  [[nodiscard]] std::span<const TensorSpec> outputs() const noexcept;

  /// The network's name, for people.
  [[nodiscard]] const std::string& name() const noexcept;
  /// The bundle's manifest_sha256: its identity.
  [[nodiscard]] const std::string& sha256() const noexcept;
  [[nodiscard]] const std::string& backend() const noexcept;
  [[nodiscard]] const std::string& precision() const noexcept;
  /// Whether every further call throws at once, as a GPU failed or did not end its work in time.
  [[nodiscard]] bool lost() const noexcept;

  /// For backends of one's own and tests: a network of `bundle` that `runner` runs. See src/backends.hpp.
  Network(const Bundle& bundle, std::string backend, std::string precision, std::unique_ptr<Runner> runner);

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

/// The runtimes that this library was built with, the first choice first.
[[nodiscard]] std::span<const std::string_view> backends() noexcept;

/// Open the bundle in `folder`, verify every byte of it, and load its network.
///
/// Throws BundleError where it is no bundle or was changed, EngineError where what was asked for cannot run here.
[[nodiscard]] Network open(const std::filesystem::path& folder, const Options& options = {});

}  // namespace plainconv
