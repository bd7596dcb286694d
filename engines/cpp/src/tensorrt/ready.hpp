// The programs of a lane with all that they run on.
#pragma once

#include <map>
#include <vector>

#include "tensorrt/program.hpp"
#include "tensorrt/replay.hpp"
#include "tensorrt/resources.hpp"

namespace plainconv {

/// A program on a lane: the stream of each work, its event, 0 where it is not marked, and the memory of each slot, 0
/// where it is the caller's.
struct Ready {
  Program program;
  std::vector<Address> streams;
  std::vector<Address> events;
  std::vector<Address> addresses;
};

/// Each is made when it is first asked for.
class ReadyPrograms {
 public:
  ReadyPrograms(const Layout& layout, Resources& held);

  /// Say where a slot lies: before anything is asked for.
  void place(const Slot& slot, Address address) { addresses_[slot] = address; }
  [[nodiscard]] Address place_of(const Slot& slot) const { return addresses_.at(slot); }

  /// Of a call; `placed` has the address of each of its slots then.
  [[nodiscard]] const Ready& ready_for(const Call& call);
  [[nodiscard]] const std::vector<Address>& placed() const noexcept { return placed_; }

 private:
  [[nodiscard]] Ready new_ready(const std::vector<bool>& on_gpu);

  const Layout& layout_;
  Resources& held_;
  std::map<Slot, Address> addresses_;
  std::map<std::vector<bool>, Ready> ready_;
  std::vector<bool> on_gpu_;  // of the last call, as is what follows
  std::vector<Address> placed_;
};

}  // namespace plainconv
