#include "npy_files.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <system_error>

#include "npy.hpp"
#include "text.hpp"

namespace plainconv::tools {
namespace {

std::string system_words(int number) { return std::generic_category().message(number); }

std::string bytes_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (!file.is_open() || file.bad()) {
    throw Error(text(path, " cannot be read (", system_words(errno), "); give a .npy file"));
  }
  return bytes;
}

}  // namespace

std::vector<std::string> files_of(std::string_view role, std::span<const std::string> given,
                                  std::span<const TensorSpec> specs) {
  std::vector<std::string> files(specs.size());
  std::vector<std::string> names;
  for (const TensorSpec& spec : specs) {
    names.push_back(spec.name);
  }
  for (const std::string& one : given) {
    auto spec = std::ranges::find_if(specs, [&](const auto& each) { return one.starts_with(each.name + "="); });
    std::string file = one;
    if (spec != specs.end()) {
      file = one.substr(spec->name.size() + 1);
    } else if (specs.size() == 1) {
      spec = specs.begin();
    } else {
      throw Error(text(role, " ", one, " names none of ", joined(names, ", "), "; give NAME=FILE.npy"));
    }
    std::string& slot = files[static_cast<std::size_t>(spec - specs.begin())];
    if (file.empty() || !slot.empty()) {
      throw Error(text(role, " ", spec->name, " is given ", file.empty() ? "without a file" : "twice", ", wanted one"));
    }
    slot = file;
  }
  return files;
}

std::vector<Array> arrays_of_files(std::span<const std::string> files, std::span<const TensorSpec> specs) {
  std::vector<Array> arrays;
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (files[i].empty()) {
      throw Error(text("input ", specs[i].name, " is missing; give --input ", specs[i].name, "=FILE.npy"));
    }
    try {
      arrays.push_back(array_of_npy(bytes_of_file(files[i])));
    } catch (const Error& error) {
      const std::string_view why = error.what();
      throw Error(why.starts_with(files[i]) ? std::string(why) : text(files[i], ": ", why));
    }
  }
  return arrays;
}

void write_file(const std::string& path, std::string_view bytes) {
  const std::string beside = text(path, ".tmp-", ::getpid());
  const int fd = ::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);  // NOLINT(*-vararg)
  int error = fd < 0 ? errno : 0;
  while (error == 0 && !bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (fd >= 0 && ::close(fd) != 0 && error == 0) {
    error = errno;
  }
  if (error == 0 && std::rename(beside.c_str(), path.c_str()) != 0) {
    error = errno;
  }
  if (error != 0) {
    if (fd >= 0) {
      ::unlink(beside.c_str());
    }
    throw Error(text(path, " cannot be written (", system_words(error), "); name a file in a folder that exists"));
  }
}

}  // namespace plainconv::tools
