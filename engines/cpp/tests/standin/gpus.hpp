// A stand-in for GPUs and their driver, below the CUDA runtime's functions (cudart.cpp): it keeps to CUDA's rules and
// writes down every call.
//
// Device memory is memory of the host. Nothing that is enqueued runs before something asks whether it has ended; then
// work runs in any order that streams and events allow, chosen by `seed`. What CUDA leaves undefined or forbids (memory
// that is not there any more, a call that a capture does not allow, two pieces of work on the same bytes of which
// neither waits for the other) is written to `astray`, which a test must find empty.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

using Address = std::uintptr_t;
inline constexpr int on_host = -1;  // where others are numbers of devices

/// Bytes from an address on.
struct Bytes {
  Address address = 0;
  std::size_t size = 0;

  [[nodiscard]] bool overlaps(const Bytes& other) const {
    return address < other.address + other.size && other.address < address + size;
  }
};

/// Work on a stream: what it does, what it reads and writes, and the work it waits for. `before` is all that has ended
/// when this starts, as far as the host does not know of it anyway. `stuck`: it never ends.
struct Operation {
  std::function<void()> run;
  int device = 0;
  std::vector<Bytes> reads;
  std::vector<Bytes> writes;
  std::vector<std::shared_ptr<Operation>> needs;
  bool stuck = false;
  bool done = false;
  bool settled = false;
  std::unordered_set<std::shared_ptr<Operation>> before = {};

  [[nodiscard]] bool touches(const Bytes& bytes) const {
    const auto hits = [&](const Bytes& own) { return own.overlaps(bytes); };
    return std::ranges::any_of(reads, hits) || std::ranges::any_of(writes, hits);
  }
};

class Gpus {
 public:
  using Work = std::shared_ptr<Operation>;
  struct Capture {
    Address origin;
    std::thread::id thread;
    std::vector<Work> operations = {};
    std::map<Address, Work> tails = {};
    bool ended = false;
  };
  struct Stream {
    int device = 0;
    std::deque<Work> queue = {};
    Work last = {};
    std::shared_ptr<Capture> captured = {};
  };
  struct Event {
    int device = 0;
    Work marked = {};
    std::shared_ptr<Capture> capture = {};
  };
  struct Memory {
    std::unique_ptr<std::byte, decltype(&std::free)> bytes{nullptr, &std::free};
    std::size_t size = 0;
    int device = 0;
  };

  static inline Gpus* here = nullptr;  // those of this machine: the last that were made

  explicit Gpus(unsigned seed = 0) : random(seed) { here = this; }
  Gpus(const Gpus&) = delete;
  Gpus& operator=(const Gpus&) = delete;
  Gpus(Gpus&&) = delete;
  Gpus& operator=(Gpus&&) = delete;
  ~Gpus() { here = here == this ? nullptr : here; }

  std::vector<std::string> calls;                      // names, in order
  std::map<std::string, int> fail;                     // how often a call of that name is to fail
  std::size_t fail_at = 0;                             // the call of this number fails, counted from 1
  std::string failed;                                  // the name of the last call that failed so
  std::set<std::size_t> forgotten;                     // the waits for events of these numbers are, counted from 1
  std::set<Address> callers;                           // memory that may go while a graph would still use it
  std::optional<std::set<std::pair<int, int>>> peers;  // that can reach one another; all where it is nothing
  std::set<std::pair<int, int>> reached;               // which device has access to which
  std::set<int> dead;                                  // devices of which every call fails
  std::map<int, int> dies;                             // how many calls from now on a device still answers
  bool hold = false;                                   // nothing runs
  std::vector<std::string> astray;
  std::mt19937 random;
  std::recursive_mutex mutex;
  std::map<Address, Memory> memory;
  std::map<Address, Stream> streams;
  std::map<Address, Event> events;
  std::map<Address, std::vector<Work>> captures;  // that ended, and are no graphs yet
  std::map<Address, std::vector<Work>> graphs;
  Address last = 0;  // the number of the last stream, event or graph
  std::size_t waits = 0;

  [[nodiscard]] bool empty() const { return memory.empty() && streams.empty() && graphs.empty() && events.empty(); }
  [[nodiscard]] std::size_t count(const std::string& name) const {
    return static_cast<std::size_t>(std::ranges::count(calls, name));
  }
  /// Whether anything is under way.
  [[nodiscard]] bool busy() const {
    return std::ranges::any_of(streams, [](const auto& stream) { return !stream.second.queue.empty(); });
  }
  /// Let everything run that can.
  void drain() {
    const std::scoped_lock lock(mutex);
    for (std::size_t left = 10000; busy() && left > 0; --left) {
      run_one();
    }
  }
  /// What went against the rules, in one text.
  [[nodiscard]] std::string broken() const {
    std::string all;
    for (const auto& each : astray) {
      all += (all.empty() ? "" : "; ") + each;
    }
    return all;
  }

  /// Throws what a call that is to fail answers.
  void note(const std::string& name, bool is_written = true) {
    if (is_written) {
      calls.push_back(name);
    }
    for (auto& [device, left] : dies) {
      if (left-- == 0) {
        dead.insert(device);
      }
    }
    auto& left = fail[name];
    if (left > 0 || ++count_ == fail_at) {
      left -= left > 0 ? 1 : 0;
      failed = name;
      throw cudaErrorUnknown;
    }
  }
  void rule(bool is_kept, const std::string& broken) {
    if (!is_kept && std::ranges::find(astray, broken) == astray.end()) {
      astray.push_back(broken);
    }
  }
  void alive(int device) const {
    if (dead.contains(device)) {
      throw cudaErrorLaunchFailure;
    }
  }
  /// The device that this thread uses.
  [[nodiscard]] int& device() { return current_[std::this_thread::get_id()]; }

  /// The allocation that these bytes are of; null where they are not of one.
  [[nodiscard]] const Memory* memory_of(const Bytes& bytes) const {
    auto found = memory.upper_bound(bytes.address);
    if (found == memory.begin()) {
      return nullptr;
    }
    --found;
    return bytes.address + bytes.size <= found->first + found->second.size ? &found->second : nullptr;
  }
  [[nodiscard]] bool is_on(int device, const Bytes& bytes) const {
    const auto* found = memory_of(bytes);
    return found != nullptr && found->device == device;
  }
  Address allocate(int device, std::size_t size);
  void free(Address address, bool of_host);

  /// Work on a stream, which also waits for what is in `needs`.
  Work enqueue(Address stream, std::function<void()> run = {}, std::vector<Bytes> reads = {},
               std::vector<Bytes> writes = {}, std::vector<Work> needs = {}, bool stuck = false);
  /// Queue work that is in no capture, after a look at whether it may run beside what is under way.
  void start(const Work& operation, Stream& state);
  /// The host knows that this has ended, and all that it waited for.
  void settle(const Work& operation);
  /// Run something that can, of any stream.
  void run_one();

  template <class T>
  static T* at(Address address) {
    return reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr,*-reinterpret-cast)
  }

 private:
  void no_capture_here();

  std::unordered_set<Work> unsettled_;
  std::vector<decltype(Memory::bytes)> late_;  // given back by a caller while a runner that is lost may still use it
  std::map<std::thread::id, int> current_;
  std::size_t count_ = 0;
};
