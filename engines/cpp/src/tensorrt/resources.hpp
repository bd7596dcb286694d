// What a lane holds of CUDA: streams, events and memory, given back from the last to the first.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "cuda/cuda.hpp"
#include "tensorrt/program.hpp"

namespace plainconv {

/// For one thread at a time. Each call throws EngineError where CUDA refuses.
class Resources {
 public:
  /// `device` is in use.
  Resources(Cuda& cuda, int device) : cuda_(cuda), used_(device) {}

  /// Let this thread use a device, where it does not.
  void use(int device);
  /// A device is in use.
  void assume(int device) noexcept { used_ = device; }
  /// Which device is in use is not known any more.
  void forget_device() noexcept { used_.reset(); }

  /// Memory of a device, or page-locked of the host.
  [[nodiscard]] Address allocated(int memory, std::size_t size);
  /// Of a track there is one.
  [[nodiscard]] Address stream(const Track& track);
  /// The event of this number of a track.
  [[nodiscard]] Address event(const Track& track, std::size_t number);

  [[nodiscard]] const std::vector<Address>& streams() const noexcept { return stream_list_; }
  [[nodiscard]] const std::vector<std::pair<Track, Handle>>& streams_of_tracks() const noexcept { return streams_; }

 private:
  Cuda& cuda_;
  std::optional<int> used_;  // the device that this thread uses, where that is known
  std::vector<std::pair<Track, Handle>> streams_;
  std::vector<Address> stream_list_;
  std::map<std::pair<Track, std::size_t>, Handle> events_;
  std::vector<Handle> memory_;
};

}  // namespace plainconv
