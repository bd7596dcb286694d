#include "bundle/plain_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "plainconv/bundle.hpp"
#include "text.hpp"

namespace plainconv {

void check_is_plain(mode_t mode, std::string_view name) {
  if (!S_ISREG(mode)) {
    const std::string_view other = S_ISDIR(mode) ? "folder" : "special file";
    throw BundleError(text(name, " is a ", S_ISLNK(mode) ? "symbolic link" : other,
                           ", wanted plain files only; replace it by a copy"));
  }
}

PlainFile::PlainFile(std::string path, std::string_view name) : path_(std::move(path)) {
  struct stat status = {};
  if (::lstat(path_.c_str(), &status) != 0) {
    throw SystemError{errno, path_};
  }
  check_is_plain(status.st_mode, name);  // before it is opened: to open a device may do something
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);  // NOLINT(*-vararg)
  if (fd_ < 0) {
    throw SystemError{errno, path_};
  }
  try {
    if (::fstat(fd_, &status) != 0) {
      throw SystemError{errno, path_};
    }
    check_is_plain(status.st_mode, name);
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

PlainFile::~PlainFile() { ::close(fd_); }

std::size_t PlainFile::read(std::span<char> buffer) const {
  for (;;) {
    const ssize_t count = ::read(fd_, buffer.data(), buffer.size());
    if (count >= 0) {
      return static_cast<std::size_t>(count);
    }
    if (errno != EINTR) {
      throw SystemError{errno, path_};
    }
  }
}

}  // namespace plainconv
