#include "tensorrt/program.hpp"

#include <algorithm>
#include <map>

namespace plainconv {
namespace {

class Writer {
 public:
  Writer(const Layout& layout, const std::vector<bool>& on_gpu)
      : layout_(layout), on_gpu_(on_gpu), wanted_(layout.values()), made_(layout.values()) {}

  Program program() {
    const Schedule& schedule = layout_.schedule();
    const int home = layout_.home();
    enqueue({layout_.home_track()}, {});
    find_wanted();
    for (std::size_t i = 0; i < layout_.inputs(); ++i) {
      make(i, on_gpu_[i] ? home : host_memory, 0);
      program_.ends.push_back(slots_.at(made_[i]));
    }
    for (std::size_t at = 0; at < schedule.steps.size(); ++at) {
      const Track track = layout_.track(at);
      std::vector<std::size_t> bound;
      std::vector<std::size_t> needs;
      for (const Source& source : schedule.steps[at].sources) {
        const Slot slot{layout_.value_of(source), track.device};
        bound.push_back(slots_.at(slot));
        needs.push_back(filled_.at(slot));
      }
      const std::size_t position = enqueue({.track = track, .step = at}, needs);
      for (std::size_t i = 0; i < schedule.steps[at].part->outputs.size(); ++i) {
        const std::size_t value = layout_.first_of(at) + i;
        make(value, track.device, position);
        bound.push_back(slots_.at(made_[value]));
      }
      program_.bound.push_back(std::move(bound));
    }
    for (std::size_t i = 0; i < layout_.outputs(); ++i) {
      const bool on_gpu = on_gpu_[layout_.inputs() + i];
      const Source& from = schedule.results[i];
      Slot slot{layout_.value_of(from), on_gpu ? home : host_memory};
      if (on_gpu && !from.step) {
        slot.passed = true;
        copy(made_[slot.value], slot);
      }
      program_.ends.push_back(slots_.at(slot));
    }
    std::vector<std::size_t> tails;
    std::ranges::transform(tails_, std::back_inserter(tails), [](const auto& tail) { return tail.second; });
    enqueue({layout_.home_track()}, tails);
    for (const Work& work : program_.works) {
      for (const std::size_t at : work.after) {
        program_.works[at].marked = true;
      }
    }
    return std::move(program_);
  }

 private:
  /// The memories in which each value is read, in order.
  void find_wanted() {
    const auto want = [&](std::size_t value, int memory) {
      auto& memories = wanted_[value];
      if (std::ranges::find(memories, memory) == memories.end()) {
        memories.push_back(memory);
      }
    };
    const Schedule& schedule = layout_.schedule();
    for (std::size_t at = 0; at < schedule.steps.size(); ++at) {
      for (const Source& source : schedule.steps[at].sources) {
        want(layout_.value_of(source), layout_.track(at).device);
      }
    }
    for (std::size_t i = 0; i < layout_.outputs(); ++i) {
      const bool on_gpu = on_gpu_[layout_.inputs() + i];
      const Source& from = schedule.results[i];
      if (from.step || !on_gpu) {
        want(layout_.value_of(from), on_gpu ? layout_.home() : host_memory);
      }
    }
  }

  std::size_t add(const Slot& slot) {
    program_.slots.push_back(slot);
    return slots_[slot] = program_.slots.size() - 1;
  }

  /// A value that work at a position makes in a memory, and its way to all others.
  void make(std::size_t value, int memory, std::size_t position) {
    made_[value] = {value, memory};
    add(made_[value]);
    filled_[made_[value]] = position;
    for (const int other : wanted_[value]) {
      bring(value, other);
    }
  }

  void bring(std::size_t value, int memory) {
    Slot source = made_[value];
    const Slot target{value, memory};
    if (filled_.contains(target)) {
      return;
    }
    if (source.memory != host_memory && memory != host_memory && !layout_.is_direct({source.memory, memory})) {
      bring(value, host_memory);
      source = {value, host_memory};
    }
    copy(source, target);
  }

  void copy(const Slot& source, const Slot& target) {
    const std::size_t to = add(target);
    filled_[target] =
        enqueue({.track = layout_.track(Way{source.memory, target.memory}), .copy = std::pair(slots_.at(source), to)},
                {filled_.at(source)});
  }

  /// Work that waits for what it needs of other tracks, and does not already wait for; a new one for the first.
  std::size_t enqueue(Work work, std::vector<std::size_t> needs) {
    if (!tails_.contains(work.track) && !program_.works.empty()) {
      needs.insert(needs.begin(), 0);
    }
    auto& waited = waited_[work.track];  // of each other track, the position of what is waited for plus 1
    std::map<Track, std::size_t> latest;
    for (const std::size_t at : needs) {
      const Track& other = program_.works[at].track;
      if (other != work.track && at + 1 > waited[other]) {
        latest[other] = at;
        waited[other] = at + 1;
      }
    }
    for (const auto& [other, at] : latest) {
      work.after.push_back(at);
    }
    std::ranges::sort(work.after);
    tails_[work.track] = program_.works.size();
    program_.works.push_back(std::move(work));
    return program_.works.size() - 1;
  }

  const Layout& layout_;
  const std::vector<bool>& on_gpu_;
  Program program_;
  std::vector<std::vector<int>> wanted_;
  std::vector<Slot> made_;
  std::map<Slot, std::size_t> slots_;
  std::map<Slot, std::size_t> filled_;  // by which work
  std::map<Track, std::size_t> tails_;
  std::map<Track, std::map<Track, std::size_t>> waited_;
};

}  // namespace

Layout::Layout(const Schedule& schedule, std::vector<int> devices, std::size_t inputs)
    : schedule_(&schedule), devices_(std::move(devices)), inputs_(inputs), firsts_{inputs} {
  for (const Step& step : schedule.steps) {
    firsts_.push_back(firsts_.back() + step.part->outputs.size());
  }
}

std::size_t Layout::value_of(const Source& source) const noexcept {
  return source.step ? firsts_[*source.step] + source.index : source.index;
}

Track Layout::home_track() const {
  const auto& places = schedule_->places;
  const auto place = std::ranges::find(places, 0, &Place::device);
  return {home(), static_cast<std::size_t>(place - places.begin())};
}

Track Layout::track(std::size_t step) const {
  const std::size_t place = schedule_->steps[step].place;
  return {devices_[static_cast<std::size_t>(schedule_->places[place].device)], place};
}

Track Layout::track(const Way& way) const {
  if (schedule_->steps.size() == 1) {
    return track(std::size_t{0});
  }
  return {way.first == host_memory ? way.second : way.first, std::nullopt, way};
}

std::set<Way> Layout::ways() const {
  std::set<Way> ways;
  for (const Work& work : program_of(*this, std::vector<bool>(inputs() + outputs(), true)).works) {
    if (const auto& way = work.track.way;
        way && way->first != host_memory && way->second != host_memory && way->first != way->second) {
      ways.insert(*way);
    }
  }
  return ways;
}

Program program_of(const Layout& layout, const std::vector<bool>& on_gpu) { return Writer(layout, on_gpu).program(); }

}  // namespace plainconv
