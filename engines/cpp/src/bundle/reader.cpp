#include "bundle/reader.hpp"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bundle/codec.hpp"
#include "bundle/plain_file.hpp"
#include "bundle/rules.hpp"
#include "bundle/sha256.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::size_t manifest_limit = std::size_t{64} << 20U;
constexpr int attempts = 100;  // of reading a bundle that is replaced again and again
constexpr std::string_view remedy = "export again, or restore the folder from a copy";
constexpr std::size_t chunk = std::size_t{1} << 20U;

std::string base_of(const std::string& path) { return std::filesystem::path(path).filename().string(); }

/// The first `most` bytes of a file, which errors call `name`.
std::string read_file(const std::string& path, std::string_view name, std::size_t most) {
  const PlainFile file(path, name);
  std::string bytes;
  for (;;) {
    const std::size_t before = bytes.size();
    bytes.resize(std::min(before + chunk, most));
    const std::size_t count = file.read(std::span(bytes).subspan(before));
    bytes.resize(before + count);
    if (count == 0 || bytes.size() == most) {
      return bytes;
    }
  }
}

std::string sha256_of_file(const std::string& path) {
  const PlainFile file(path, base_of(path));
  Sha256 digest;
  std::vector<char> buffer(chunk);
  for (;;) {
    const std::size_t count = file.read(buffer);
    if (count == 0) {
      return digest.digits();
    }
    digest.update({buffer.data(), count});
  }
}

/// What stands at a path; nothing where there is nothing.
std::optional<mode_t> mode_of(const std::string& path, bool follow) {
  struct stat status = {};
  const int failed = follow ? ::stat(path.c_str(), &status) : ::lstat(path.c_str(), &status);
  if (failed == 0) {
    return status.st_mode;
  }
  if (errno == ENOENT || errno == ENOTDIR || errno == EBADF || errno == ELOOP) {
    return std::nullopt;
  }
  throw SystemError{errno, path};
}

bool is_folder(const std::string& path) {
  const auto mode = mode_of(path, true);
  return mode && S_ISDIR(*mode);
}

/// The names in a folder, in order.
std::vector<std::string> names_in(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(folder.c_str()), ::closedir);
  if (directory == nullptr) {
    throw SystemError{errno, folder};
  }
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(directory.get());  // NOLINT(concurrency-mt-unsafe): the stream is ours alone
    if (entry == nullptr) {
      break;
    }
    const std::string name = entry->d_name;  // NOLINT(*-array-to-pointer-decay)
    if (name != "." && name != "..") {
      names.push_back(name);
    }
  }
  if (errno != 0) {
    throw SystemError{errno, folder};
  }
  std::ranges::sort(names);
  return names;
}

std::string in(const std::string& folder, std::string_view name) { return text(folder, "/", name); }

/// Every file in a folder by its name within, and its size, in the order of the walk.
std::vector<std::pair<std::string, std::int64_t>> file_sizes(const std::string& folder) {
  std::vector<std::pair<std::string, std::int64_t>> sizes;
  std::vector<std::string> pending = {""};
  while (!pending.empty()) {
    const std::string prefix = pending.back();
    pending.pop_back();
    const std::string inside = prefix.empty() ? folder : in(folder, prefix.substr(0, prefix.size() - 1));
    const auto names = names_in(inside);
    if (!prefix.empty() && names.empty()) {
      throw BundleError(prefix + " is an empty folder, wanted none; delete it");
    }
    for (const std::string& name : names) {
      const std::string path = in(inside, name);
      struct stat status = {};
      if (::lstat(path.c_str(), &status) != 0) {
        throw SystemError{errno, path};
      }
      if (S_ISDIR(status.st_mode)) {
        pending.push_back(text(prefix, name, "/"));
      } else {
        check_is_plain(status.st_mode, prefix + name);
        sizes.emplace_back(prefix + name, status.st_size);
      }
    }
  }
  return sizes;
}

/// Where the files of the folder are not those that the manifest lists.
std::vector<std::string> differences(const std::string& folder, const Manifest& manifest) {
  const auto sizes = file_sizes(folder);
  const std::unordered_map<std::string, std::int64_t> size_of_name(sizes.begin(), sizes.end());
  std::vector<std::string> found;
  for (const std::string& name : manifest.file_names) {
    if (!size_of_name.contains(name)) {
      found.push_back(text(name, " is missing; ", remedy));
    }
  }
  for (const auto& [name, size] : sizes) {
    if (name != manifest_name && !manifest.files.contains(name)) {
      found.push_back(name + " does not belong to the bundle; move it out of the folder");
    }
  }
  for (const std::string& name : manifest.file_names) {
    const auto size = size_of_name.find(name);
    const FileRecord& record = manifest.files.at(name);
    if (size != size_of_name.end() && size->second != record.size) {
      found.push_back(text(name, " has ", size->second, " bytes, its manifest says ", record.size, "; ", remedy));
    }
  }
  return found;
}

/// Which files do not have the bytes that the manifest says.
std::vector<std::string> damaged(const std::string& folder, const Manifest& manifest) {
  constexpr std::size_t most = 12;
  std::vector<std::string> found;
  for (const std::string& name : manifest.file_names) {
    const FileRecord& record = manifest.files.at(name);
    const std::string sha256 = sha256_of_file(in(folder, name));
    if (sha256 != record.sha256) {
      found.push_back(text(name, " is damaged (its sha256 is ", sha256.substr(0, most), "…, its manifest says ",
                           record.sha256.substr(0, most), "…); ", remedy));
    }
  }
  return found;
}

/// The folder of a bundle that a writer moved aside and was killed.
std::optional<std::string> moved_aside(const std::string& folder) {
  const std::filesystem::path path(folder);
  const std::string parent = path.has_parent_path() ? path.parent_path().string() : ".";
  if (!is_folder(parent)) {
    return std::nullopt;
  }
  const std::string prefix = text(".", path.filename().string(), ".old-");
  const auto names = names_in(parent);
  const auto aside = std::ranges::find_if(names, [&](const std::string& name) { return name.starts_with(prefix); });
  return aside == names.end() ? std::nullopt : std::optional(*aside);
}

std::string read_manifest(const std::string& folder) {
  const std::string path = in(folder, manifest_name);
  const auto mode = mode_of(path, false);
  if (!mode || !S_ISREG(*mode)) {
    if (!mode_of(folder, true)) {
      if (const auto aside = moved_aside(folder)) {
        throw BundleError(text("a killed run left the bundle as ", *aside, "; rename that to ",
                               std::filesystem::path(folder).filename().string()));
      }
    }
    const std::string found = is_folder(folder) ? text("holds no file ", manifest_name) : "no such folder";
    throw BundleError(
        text("not a bundle (", found, "); give the folder that `exporter run` or `exporter export` wrote"));
  }
  std::string raw = read_file(path, manifest_name, manifest_limit + 1);
  if (raw.size() > manifest_limit) {
    throw BundleError(text(manifest_name, " is larger than ", manifest_limit, " bytes; ", remedy));
  }
  return raw;
}

/// Which version of the bundle stands there.
std::optional<std::string> manifest_bytes(const std::string& folder) {
  try {
    return read_file(in(folder, manifest_name), manifest_name, manifest_limit);
  } catch (const SystemError&) {
    return std::nullopt;
  } catch (const BundleError&) {
    return std::nullopt;
  }
}

Bundle verified(const std::string& folder) {
  const std::string raw = read_manifest(folder);
  Bundle bundle{folder, manifest_of_bytes(raw), sha256_in_manifest(raw).value_or("")};
  std::vector<std::string> broken;
  for (const std::string& problem : problems(bundle.manifest)) {
    broken.push_back(text(problem, "; ", remedy));
  }
  if (broken.empty()) {
    broken = differences(folder, bundle.manifest);
  }
  if (broken.empty()) {
    broken = damaged(folder, bundle.manifest);
  }
  if (!broken.empty()) {
    throw BundleError(broken.size() == 1 ? broken.front()
                                         : text(broken.front(), " (and ", broken.size() - 1, " more)"));
  }
  return bundle;
}

}  // namespace

std::string shown_path(const std::filesystem::path& path) {
  std::string all = path.is_absolute() ? "/" : "";
  for (const auto& part : path.relative_path()) {
    if (!part.empty() && part != ".") {
      if (!all.empty() && all != "/") {
        all += '/';
      }
      all += part.string();
    }
  }
  return all.empty() ? "." : all;
}

std::optional<std::string> identity_of(const std::filesystem::path& folder) {
  const auto raw = manifest_bytes(shown_path(folder));
  return raw ? sha256_in_manifest(*raw) : std::nullopt;
}

Bundle Bundle::open(const std::filesystem::path& folder) {
  const std::string path = shown_path(folder);
  std::string broken;
  for (int attempt = 0; attempt < attempts; ++attempt) {
    const auto before = manifest_bytes(path);
    try {
      return verified(path);
    } catch (const SystemError& error) {
      broken = text("cannot be read (", std::generic_category().message(error.number), ": ", error.path, "); ", remedy);
    } catch (const BundleError& error) {
      broken = error.what();
    }
    if (manifest_bytes(path) == before) {  // else a new version took its place meanwhile: read that one
      break;
    }
  }
  throw BundleError(text(path, ": ", broken));
}

std::string Bundle::read(const std::string& name) const {
  const FileRecord& record = manifest.files.at(name);
  const std::string path = in(shown_path(folder), name);
  std::string bytes;
  try {
    bytes = read_file(path, name, static_cast<std::size_t>(record.size) + 1);
  } catch (const SystemError& error) {
    throw BundleError(text(shown_path(folder), ": cannot be read (", std::generic_category().message(error.number),
                           ": ", error.path, "); ", remedy));
  }
  if (sha256_of(bytes) != record.sha256) {
    throw BundleError(text(shown_path(folder), ": ", name, " was changed since the bundle was opened; open it again"));
  }
  return bytes;
}

std::string Bundle::graph_on_cpu(std::string_view precision) const {
  if (precision == "fp32") {
    return std::string(model_name);
  }
  for (const auto* graphs : {&manifest.cpu_graphs, &manifest.graphs}) {
    const auto found = std::ranges::find(*graphs, precision, &GraphRecord::precision);
    if (found != graphs->end()) {
      return found->file;
    }
  }
  std::vector<std::string> has = {"fp32"};
  std::ranges::transform(manifest.graphs, std::back_inserter(has), &GraphRecord::precision);
  throw EngineError(text("there is no ", precision, " graph in the bundle, which has ", joined(has, ", "),
                         "; see `exporter build --precision`"));
}

}  // namespace plainconv
