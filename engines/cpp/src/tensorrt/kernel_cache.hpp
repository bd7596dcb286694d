// The kernels that TensorRT-RTX compiled for an engine on a GPU, kept in a file from one process to the next. The same
// files as Python's. Free of TensorRT's types.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace plainconv {

/// The file for an engine (its SHA-256), a GPU and a version of TensorRT-RTX; nothing where there is no home folder.
///
/// It lies in $PLAINCONV_CACHE, else in `plainconv/kernels` of $XDG_CACHE_HOME or ~/.cache.
[[nodiscard]] std::optional<std::filesystem::path> kernel_file(std::string_view engine, std::string_view gpu,
                                                               std::string_view version);

/// Such a file, or none.
class KernelFile {
 public:
  /// All files together hold no more than `most_bytes`: the ones not used for longest go first.
  explicit KernelFile(std::optional<std::filesystem::path> path, std::size_t most_bytes = std::size_t{1} << 30U)
      : path_(std::move(path)), most_bytes_(most_bytes) {}

  /// Gives what it holds to `take`, which says whether the runtime does. Tells `warn` in one line where it does not,
  /// and where the file cannot be read.
  void read(const std::function<bool(const std::string&)>& take, const std::function<void(const std::string&)>& warn);

  /// Put what was compiled there, whole or not at all. A file that cannot be written is left as it is.
  void write(std::string_view data) noexcept;

 private:
  std::optional<std::filesystem::path> path_;
  std::size_t most_bytes_;
  std::string held_;  // what it is known to hold
};

}  // namespace plainconv
