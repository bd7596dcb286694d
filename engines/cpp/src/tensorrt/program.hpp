// What a request enqueues: parts, copies and waits, in order, each on its stream. Pure.
//
// A program is written once for each choice of which of the caller's tensors lie in GPU memory; a lane runs it.
#pragma once

#include <compare>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "cuda/cuda.hpp"
#include "schedule.hpp"

namespace plainconv {

/// From memory to memory: numbers of devices, or `host_memory`.
using Way = std::pair<int, int>;

/// Where a value lies: in the memory of a CUDA device, or in page-locked memory of the host.
///
/// `passed`: an input of the network once more, as the caller's tensor for an output.
struct Slot {
  std::size_t value = 0;
  int memory = host_memory;
  bool passed = false;

  auto operator<=>(const Slot&) const = default;
};

/// A stream: the CUDA device it is of, and what is its own, a place of the schedule or a way.
struct Track {
  int device = 0;
  std::optional<std::size_t> place;
  std::optional<Way> way = std::nullopt;

  auto operator<=>(const Track&) const = default;
};

/// What is enqueued on a track: the part of a step, a copy from slot to slot, or nothing but the wait.
///
/// `after` are the positions of the work of other tracks that it waits for; `marked`: others wait for it.
struct Work {
  Track track;
  std::vector<std::size_t> after = {};
  std::optional<std::size_t> step = std::nullopt;
  std::optional<std::pair<std::size_t, std::size_t>> copy = std::nullopt;
  bool marked = false;
};

/// All that a request enqueues, in order; the first and the last work are of one track, where it begins and ends.
///
/// `ends` says in which slot each input of the network, then each output, lies; `bound` where the inputs of each step
/// do, then its outputs.
struct Program {
  std::vector<Slot> slots;
  std::vector<Work> works;
  std::vector<std::size_t> ends;
  std::vector<std::vector<std::size_t>> bound;
};

/// What the programs of a network have in common. Values are numbered: the network's inputs, then the outputs of each
/// step.
class Layout {
 public:
  /// `devices` are the CUDA devices of the schedule's, which must outlive this.
  Layout(const Schedule& schedule, std::vector<int> devices, std::size_t inputs);

  [[nodiscard]] const Schedule& schedule() const noexcept { return *schedule_; }
  [[nodiscard]] std::size_t inputs() const noexcept { return inputs_; }
  [[nodiscard]] std::size_t outputs() const noexcept { return schedule_->results.size(); }
  [[nodiscard]] std::size_t values() const noexcept { return firsts_.back(); }
  [[nodiscard]] std::size_t value_of(const Source& source) const noexcept;
  /// Of the outputs of a step, the first.
  [[nodiscard]] std::size_t first_of(std::size_t step) const noexcept { return firsts_[step]; }

  /// The CUDA device of the caller's tensors.
  [[nodiscard]] int home() const noexcept { return devices_[0]; }
  /// Where a request begins and ends: a stream that runs parts, if one of that device does.
  [[nodiscard]] Track home_track() const;
  /// Where a step runs.
  [[nodiscard]] Track track(std::size_t step) const;
  /// Where a copy runs: on the device that it comes from, as to write elsewhere is faster than to read there. With one
  /// step there is nothing that it could run beside.
  [[nodiscard]] Track track(const Way& way) const;

  /// The ordered pairs of CUDA devices between which something is to be copied, wherever the caller's tensors are.
  [[nodiscard]] std::set<Way> ways() const;
  /// The others copy by way of the host.
  void let_reach_only(std::set<Way> direct) { direct_ = std::move(direct); }
  [[nodiscard]] bool is_direct(const Way& way) const { return !direct_ || direct_->contains(way); }

 private:
  const Schedule* schedule_;
  std::vector<int> devices_;
  std::size_t inputs_;
  std::vector<std::size_t> firsts_;
  std::optional<std::set<Way>> direct_;
};

/// The program for calls whose inputs, then outputs, are in GPU memory where `on_gpu` says so.
///
/// Each value goes where it is wanted as soon as it is made, so that it is there when it is read.
[[nodiscard]] Program program_of(const Layout& layout, const std::vector<bool>& on_gpu);

}  // namespace plainconv
