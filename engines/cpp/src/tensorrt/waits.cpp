// How a lane waits for its streams, and what it says of what does not end.
#include <algorithm>
#include <functional>
#include <thread>

#include "tensorrt/lane.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr auto least_spin = microseconds(100);  // of asking without a pause
constexpr auto most_spin = milliseconds(10);
constexpr auto shortest = microseconds(5);  // of the pauses after that, each at least as long again as the system likes
constexpr auto longest = microseconds(50);
constexpr auto look = milliseconds(10);  // after which every stream is asked: one may wait for a GPU that is lost
constexpr std::chrono::duration<double> most_patience = std::chrono::hours(24 * 365);  // what a clock can add

std::string word_of(const PartEngine& part) { return part.name.empty() ? "the network" : part.name; }

std::string words_of(const std::vector<PartEngine>& parts, const std::function<bool(const PartEngine&)>& wanted) {
  std::vector<std::string> names;
  for (const PartEngine& part : parts) {
    if (wanted(part)) {
      names.push_back(word_of(part));
    }
  }
  const bool whole = parts.size() == 1 && parts[0].name.empty();
  return text(whole ? "" : "parts ", names.empty() ? "none" : joined(names, ", "));
}

}  // namespace

bool Lane::ended(std::chrono::duration<double> patience) noexcept {
  const auto under_way = [&](Address stream) {
    try {
      return !cuda_.idle(stream);
    } catch (const EngineError&) {
      return false;
    }
  };
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::min(patience, most_patience));
  while (std::ranges::any_of(held_.streams(), under_way)) {
    if (Clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(longest);
  }
  return true;
}

/// Wait for a request, without a pause for as long as the last one lets expect: a sleep of microseconds takes fifty and
/// more; where calls take longer than `most_spin` that is nothing.
void Lane::wait_for_end() {
  const auto expected = took_ + took_ / 2 + least_spin;
  took_ = wait({&home_stream_, 1}, expected < most_spin ? expected : Clock::duration(least_spin));
}

void Lane::wait_for_all() { (void)wait(held_.streams(), least_spin); }

/// Wait until streams have nothing left, and say how long that took. Throws LostError where that is too long, and where
/// CUDA fails.
Lane::Clock::duration Lane::wait(std::span<const Address> streams, Clock::duration spin) {
  try {
    std::optional<Clock::time_point> begun;  // no clock is asked where all has ended
    Clock::time_point next_look;
    auto pause = shortest;
    for (const Address stream : streams) {
      while (!cuda_.idle(stream)) {
        const auto now = Clock::now();
        if (!begun) {
          begun = now;
          next_look = now + look;
        }
        if (now - *begun > shared_.timeout) {
          throw LostError(overdue());
        }
        if (now > next_look) {
          for (const Address other : held_.streams()) {
            (void)cuda_.idle(other);
          }
          next_look = now + look;
        }
        if (now - *begun > spin) {
          std::this_thread::sleep_for(pause);
          pause = std::min<microseconds>(2 * pause, longest);
        }
      }
    }
    return begun ? Clock::now() - *begun : Clock::duration(0);
  } catch (const LostError&) {
    throw;
  } catch (const EngineError& error) {
    throw LostError(failed(error));
  }
}

/// Wait for what was enqueued before an error, as the lane is to be used again.
void Lane::clear_up(const std::string& error) {
  held_.forget_device();
  try {
    wait_for_all();
  } catch (const LostError& lost) {
    throw LostError(text(error, "; after that, ", lost.what()));
  }
}

/// Which parts have not ended in time, as far as their events say.
std::string Lane::overdue() const {
  std::string what = "what it waits for has not ended, and no part has begun";
  if (replay_ != nullptr && replay_->launched()) {
    std::vector<std::string> names;
    std::ranges::transform(shared_.parts, std::back_inserter(names), word_of);
    what = text("no end of ", names.size() == 1 ? "" : "one of ", joined(names, ", "), ", a CUDA graph",
                names.size() == 1 ? "" : ", which does not say of which");
  } else if (enqueued_ != nullptr) {
    const auto names = late();
    what = names.empty() ? "its parts have ended, a copy has not" : text("no end of ", joined(names, ", "));
  }
  return text("the request did not end within ", decimal(shared_.timeout.count()), " s: ", what,
              "; load the bundle again, in a new process if the GPU still hangs");
}

/// The parts, of what was enqueued, that are not known to have ended.
std::vector<std::string> Lane::late() const {
  std::vector<Track> ended;
  std::vector<std::string> names;
  const auto has_ended = [&](const Track& track) { return std::ranges::find(ended, track) != ended.end(); };
  for (std::size_t at = count_; at-- > 0;) {
    const Work& work = enqueued_->program.works[at];
    if (work.marked && !has_ended(work.track)) {
      try {
        if (cuda_.passed(enqueued_->events[at])) {
          ended.push_back(work.track);
        }
      } catch (const EngineError&) {  // NOLINT(bugprone-empty-catch): then it is not known
      }
    }
    if (work.step && !has_ended(work.track)) {
      const PartEngine& part = shared_.parts[*work.step];
      names.push_back(text(word_of(part), " on GPU ", part.device));
    }
  }
  std::ranges::reverse(names);
  return names;
}

/// Which GPUs fail, and what runs there.
std::string Lane::failed(const EngineError& error) const {
  std::vector<int> lost;
  for (const auto& [track, stream] : held_.streams_of_tracks()) {
    try {
      (void)cuda_.idle(stream.value());
    } catch (const EngineError&) {
      if (std::ranges::find(lost, track.device) == lost.end()) {
        lost.push_back(track.device);
      }
    }
  }
  std::ranges::sort(lost);
  std::vector<std::string> numbers;
  std::ranges::transform(lost, std::back_inserter(numbers), [](int device) { return std::to_string(device); });
  const std::string where = lost.empty() ? "a GPU failed" : text("GPU ", joined(numbers, " and "), " failed");
  const auto there = [&](const PartEngine& part) {
    return lost.empty() || std::ranges::find(lost, part.device) != lost.end();
  };
  return text(where, " while ", words_of(shared_.parts, there), " ran there (", error.what(),
              "); load the bundle again, in a new process");
}

void keep_for_ever(std::shared_ptr<void> thing) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<std::shared_ptr<void>>;  // NOLINT(cppcoreguidelines-*): for ever
  const std::scoped_lock lock(mutex);
  kept->push_back(std::move(thing));
}

}  // namespace plainconv
