#include "shared_memory.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::string_view folder = "/dev/shm";
constexpr std::size_t most_name = 256;
constexpr std::size_t most_key = 255;

std::string reason() { return std::generic_category().message(errno); }

/// The name of the object that a key means, "" where it means none. sem.*: semaphores, which whoever holds them has
/// mapped.
std::string_view object_of(std::string_view key) {
  key.remove_prefix(std::min(key.find_first_not_of('/'), key.size()));
  const bool is_name = key != "." && key != ".." && !key.starts_with("sem.") && key.size() <= most_key &&
                       key.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
  return is_name ? key : "";
}

int opened(const std::string& key) {
  const std::string path = text(folder, "/", key);
  const int file = ::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);  // NOLINT(*-vararg)
  if (file < 0) {
    throw bad_request(text("shared memory object ", as_sent(key), " cannot be opened (", reason(), ")"));
  }
  return file;
}

std::string bytes_in_words(std::uint64_t offset, std::uint64_t size) {
  return text("asks for bytes ", offset, " to ", offset + size, " of ");
}

}  // namespace

Region::Region(std::string key, Extent extent, std::string_view what)
    : key_(std::move(key)), extent_(extent), file_(opened(key_)) {
  try {
    struct stat found = {};
    if (::fstat(file_, &found) != 0 || !S_ISREG(found.st_mode)) {
      throw bad_request(text(as_sent(key_), " is no shared memory object"));
    }
    check_size(what);
  } catch (...) {
    ::close(file_);
    throw;
  }
}

Region::~Region() { ::close(file_); }

void Region::check_size(std::string_view what) const {
  struct stat found = {};
  const bool is_found = ::fstat(file_, &found) == 0;
  if (!is_found || static_cast<std::uint64_t>(found.st_size) < extent_.offset + extent_.size) {
    throw bad_request(text(what, " ", bytes_in_words(extent_.offset, extent_.size), "the shared memory object ",
                           as_sent(key_), ", which has ", found.st_size));
  }
}

void Region::read(std::string_view what, std::uint64_t offset, std::span<std::byte> to) const {
  auto at = static_cast<off_t>(extent_.offset + offset);
  while (!to.empty()) {
    const ssize_t count = ::pread(file_, to.data(), to.size(), at);
    if (count <= 0) {
      check_size(what);
      throw bad_request(text(what, " could not be read: its shared memory object was cut meanwhile"));
    }
    to = to.subspan(static_cast<std::size_t>(count));
    at += count;
  }
}

void Region::write(std::string_view what, std::uint64_t offset, std::span<const std::byte> bytes) const {
  check_size(what);  // what is written behind its end would make it longer
  auto at = static_cast<off_t>(extent_.offset + offset);
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(file_, bytes.data(), bytes.size(), at);
    if (count < 0) {
      throw bad_request(text(what, " could not be written to its region (", reason(), ")"));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    at += count;
  }
}

Regions::Regions() {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    throw Error(text("there is no ", folder, " here, so no shared memory can be offered; leave --shared-memory out"));
  }
}

void Regions::add(const std::string& name, const json::Value* key, const json::Value* offset, const json::Value* size) {
  const auto* sent = key == nullptr ? nullptr : std::get_if<std::string>(key);
  const std::string_view object = sent == nullptr ? "" : object_of(*sent);
  const std::string what = text("region ", as_sent(name));
  const std::scoped_lock lock(mutex_);
  if (name.empty() || cut(name, most_name).size() != name.size()) {
    throw bad_request(text("a region is named ", as_sent(name), ", wanted 1 to ", most_name, " characters"));
  }
  if (regions_.contains(name)) {
    throw taken(text(what, " is registered already; unregister it, or take another name"));
  }
  if (regions_.size() >= most_regions) {
    throw too_many(text(most_regions, " regions are registered already; unregister one"));
  }
  if (object.empty()) {
    throw bad_request(text("key ", as_sent(key), " names no shared memory object; wanted a name without / and .."));
  }
  regions_.emplace(name,
                   std::make_shared<const Region>(std::string(object), extent_of(what, offset, size), "the region"));
}

void Regions::remove(const std::string& name) {
  const std::scoped_lock lock(mutex_);
  if (name.empty()) {
    regions_.clear();
  } else {
    regions_.erase(name);
  }
}

std::vector<std::pair<std::string, std::string>> Regions::status(const std::string& name) const {
  std::vector<std::pair<std::string, std::string>> rows;
  const std::scoped_lock lock(mutex_);
  for (const auto& [own, region] : regions_) {
    if (name.empty() || name == own) {
      rows.emplace_back(
          own, text(R"({"name":)", json_text(own), R"(,"key":)", json_text("/" + region->key()), R"(,"offset":)",
                    region->extent().offset, R"(,"byte_size":)", region->extent().size, "}"));
    }
  }
  if (rows.empty() && !name.empty()) {
    throw unknown(text("there is no shared memory region ", as_sent(name), "; register it first"));
  }
  return rows;
}

std::shared_ptr<const Region> Regions::region_of(std::string_view what, const Place& place) const {
  std::shared_ptr<const Region> region;
  {
    const std::scoped_lock lock(mutex_);
    const auto found = regions_.find(place.region);
    if (found == regions_.end()) {
      throw unknown(
          text("there is no shared memory region ", as_sent(place.region), " for ", what, "; register it first"));
    }
    region = found->second;
  }
  const auto [offset, size] = place.extent;
  if (offset + size > region->extent().size) {
    throw bad_request(text(what, " ", bytes_in_words(offset, size), "region ", as_sent(place.region), ", which has ",
                           region->extent().size));
  }
  return region;
}

std::size_t Regions::size_of(const InferRequest& request, std::size_t most) const {
  std::size_t size = 0;
  for (const SentTensor& input : request.inputs) {
    if (input.place) {
      (void)region_of("input " + as_sent(input.name), *input.place);  // so that it is a size that something has
      size += input.place->extent.size;
    }
    if (size > most) {
      throw too_large(text("the inputs in shared memory have ", size, " bytes, this server takes up to ", most));
    }
  }
  return size;
}

Body Regions::fill(InferRequest& request) const {
  const auto padded = [](std::size_t size) { return (size + alignment - 1) / alignment * alignment; };
  std::size_t all = 0;
  for (const SentTensor& input : request.inputs) {
    all += input.place ? padded(input.place->extent.size) : 0;
  }
  Body body = body_of(all, 0);
  std::span<std::byte> rest = body.bytes;
  for (SentTensor& input : request.inputs) {
    if (input.place) {
      const std::string what = "input " + as_sent(input.name);
      const auto bytes = rest.first(input.place->extent.size);
      region_of(what, *input.place)->read(what, input.place->extent.offset, bytes);
      take_bytes(input, bytes);
      rest = rest.subspan(padded(bytes.size()));
    }
  }
  return body;
}

void Regions::put(std::string_view output, Place& place, std::span<const std::byte> bytes) const {
  const std::string what = "output " + as_sent(output);
  const auto region = region_of(what, place);
  if (bytes.size() > place.extent.size) {
    throw bad_request(text(what, " has ", bytes.size(), " bytes, its place in shared memory ", place.extent.size));
  }
  region->write(what, place.extent.offset, bytes);
  place.extent.size = bytes.size();
}

}  // namespace plainconv::serve
