// Triton's system shared memory: parts of POSIX shared memory objects, which a client names in the place of bytes.
//
//   register "in": object /frames, from byte 0, 602112 bytes;  an input: region "in", offset 0, byte_size 602112
//
// The object stays its client's, who may write to it and cut it at any time. So nothing of it is mapped here: bytes are
// copied out of it and into it by its handle, and where it was cut a request is refused, not the server killed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "body.hpp"
#include "requests.hpp"

namespace plainconv::serve {

inline constexpr std::size_t most_regions = 256;

/// A part of an object, open as long as anybody has it: a request under way keeps what was unregistered meanwhile.
class Region {
 public:
  /// Throws Refused where there is no such object, or it is shorter.
  Region(std::string key, Extent extent, std::string_view what);
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  Region(Region&&) = delete;
  Region& operator=(Region&&) = delete;
  ~Region();

  [[nodiscard]] const std::string& key() const noexcept { return key_; }
  [[nodiscard]] const Extent& extent() const noexcept { return extent_; }
  /// Copy the bytes from `offset` of the region on. Throws Refused where they are gone.
  void read(std::string_view what, std::uint64_t offset, std::span<std::byte> to) const;
  /// Put bytes there. Throws Refused where the object has no room for them any more.
  void write(std::string_view what, std::uint64_t offset, std::span<const std::byte> bytes) const;

 private:
  /// Throws Refused where the object does not reach as far as the region.
  void check_size(std::string_view what) const;

  std::string key_;
  Extent extent_;
  int file_;
};

/// The regions that are registered, by name. From any thread.
class Regions {
 public:
  /// Throws Error where this system has no shared memory of that kind.
  Regions();

  /// Open a part of an object as region `name`, all as it was sent. Throws Refused.
  void add(const std::string& name, const json::Value* key, const json::Value* offset, const json::Value* size);
  /// Leave a region, all without a name; one that is not registered is not registered then.
  void remove(const std::string& name);
  /// What is registered, or that region alone: objects of JSON, each by its name. Throws Refused where it is not.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> status(const std::string& name) const;

  /// The bytes of the request's inputs that lie in regions. Throws Refused, and beyond `most`.
  [[nodiscard]] std::size_t size_of(const InferRequest& request, std::size_t most) const;
  /// Copy these inputs into memory that it gives. Throws Refused.
  [[nodiscard]] Body fill(InferRequest& request) const;
  /// Put an output where it has its place, which gets its size. Throws Refused where it has too little room.
  void put(std::string_view output, Place& place, std::span<const std::byte> bytes) const;

 private:
  /// The region that a place lies in. Throws Refused.
  [[nodiscard]] std::shared_ptr<const Region> region_of(std::string_view what, const Place& place) const;

  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Region>, std::less<>> regions_;
};

}  // namespace plainconv::serve
