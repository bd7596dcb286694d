// Opening plain files alone: never a pipe, which would be waited at for ever, a device, or a link.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace plainconv {

/// What the system refused.
struct SystemError {
  int number;
  std::string path;
};

/// Throws BundleError where `mode` is of what is no plain file, which is called `name`.
void check_is_plain(mode_t mode, std::string_view name);

/// A plain file, open: what is read is what was looked at, whatever takes its name later.
class PlainFile {
 public:
  /// Throws BundleError, which calls it `name`, where it is something else; SystemError where it is missing.
  PlainFile(std::string path, std::string_view name);
  PlainFile(const PlainFile&) = delete;
  PlainFile& operator=(const PlainFile&) = delete;
  PlainFile(PlainFile&&) = delete;
  PlainFile& operator=(PlainFile&&) = delete;
  ~PlainFile();

  /// As many bytes as are there, at most `buffer.size()`; 0 at the end.
  std::size_t read(std::span<char> buffer) const;

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace plainconv
