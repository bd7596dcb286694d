#include "tensorrt/kernel_cache.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

#include "bundle/reader.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

namespace fs = std::filesystem;

std::string of_environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return value == nullptr ? "" : value;
}

/// Remove the files that were not used for longest, until the others hold no more than `most_bytes`.
void prune(const fs::path& folder, std::size_t most_bytes) {
  std::vector<fs::directory_entry> files;
  std::ranges::copy_if(fs::directory_iterator(folder), std::back_inserter(files),
                       [](const auto& each) { return each.path().extension() == ".rtx"; });
  std::ranges::sort(files, std::ranges::greater{}, [](const auto& each) { return each.last_write_time(); });
  std::size_t held = 0;
  for (const auto& file : files) {
    held += file.file_size();
    if (held > most_bytes) {
      fs::remove(file);
    }
  }
}

}  // namespace

std::optional<fs::path> kernel_file(std::string_view engine, std::string_view gpu, std::string_view version) {
  std::string name(engine.substr(0, 32));
  name += '-';
  bool is_between = false;
  for (const char each : gpu) {
    const bool is_plain =
        (each >= 'A' && each <= 'Z') || (each >= 'a' && each <= 'z') || (each >= '0' && each <= '9') || each == '.';
    if (is_plain || !is_between) {
      name += is_plain ? each : '_';
    }
    is_between = !is_plain;
  }
  name += text("-", version, ".rtx");
  if (const auto named = of_environment("PLAINCONV_CACHE"); !named.empty()) {
    return fs::path(named) / name;
  }
  const auto caches = of_environment("XDG_CACHE_HOME");
  const auto home = of_environment("HOME");
  if (caches.empty() && home.empty()) {
    return std::nullopt;
  }
  return (caches.empty() ? fs::path(home) / ".cache" : fs::path(caches)) / "plainconv" / "kernels" / name;
}

void KernelFile::read(const std::function<bool(const std::string&)>& take,
                      const std::function<void(const std::string&)>& warn) {
  std::error_code none;
  if (!path_ || !fs::exists(*path_, none)) {
    return;
  }
  std::string why;
  std::ifstream file(*path_, std::ios::binary);
  if (!fs::is_regular_file(*path_, none) || !file.is_open()) {
    why = "it is no file that can be opened";
  } else {
    std::ostringstream all;
    all << file.rdbuf();
    held_ = all.str();
    why = take(held_) ? "" : "the runtime does not take it";
  }
  fs::last_write_time(*path_, fs::file_time_type::clock::now(), none);  // the last to be pruned
  if (!why.empty() && warn) {
    warn(text("compiled kernels in ", shown_path(*path_), " cannot be read (", why,
              "): they are compiled again, which takes seconds"));
  }
}

void KernelFile::write(std::string_view data) noexcept {
  if (!path_ || data.empty() || data == held_ || data.size() > most_bytes_) {
    return;
  }
  try {
    fs::create_directories(path_->parent_path());
    std::string made = (path_->parent_path() / text(".", path_->filename().string(), ".XXXXXX")).string();
    const int file = ::mkstemp(made.data());
    if (file < 0) {
      return;
    }
    bool is_whole = true;
    for (auto left = data; !left.empty() && is_whole;) {
      const auto count = ::write(file, left.data(), left.size());
      is_whole = count > 0;
      left.remove_prefix(is_whole ? static_cast<std::size_t>(count) : 0);
    }
    is_whole = ::close(file) == 0 && is_whole;
    std::error_code error;
    if (is_whole) {
      fs::rename(made, *path_, error);
    }
    if (!is_whole || error) {
      fs::remove(made, error);
      return;
    }
    held_ = data;
    prune(path_->parent_path(), most_bytes_);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): then it is compiled again
  }
}

}  // namespace plainconv
