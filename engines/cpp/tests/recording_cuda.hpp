// A double of CUDA, of several devices, that keeps to its rules and writes down every call.
//
// Device memory is memory of the host. Nothing that is enqueued runs before something asks whether it has ended; then
// work runs in any order that streams and events allow, chosen by `seed`. What CUDA leaves undefined or forbids (memory
// that is not there any more, a call that a capture does not allow, two pieces of work on the same bytes of which
// neither waits for the other) is written to `astray`, which a test must find empty.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "cuda/cuda.hpp"
#include "text.hpp"

/// Bytes from an address on.
struct Bytes {
  plainconv::Address address = 0;
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
  std::unordered_set<std::shared_ptr<Operation>> before;

  [[nodiscard]] bool touches(const Bytes& bytes) const {
    const auto hits = [&](const Bytes& own) { return own.overlaps(bytes); };
    return std::ranges::any_of(reads, hits) || std::ranges::any_of(writes, hits);
  }
};

class RecordingCuda : public plainconv::Cuda {
 public:
  using Address = plainconv::Address;
  using OperationPointer = std::shared_ptr<Operation>;

  explicit RecordingCuda(unsigned seed = 0) : random(seed) {}

  std::vector<std::string> calls;                      // names, in order
  std::map<std::string, int> fail;                     // how often a call of that name is to fail
  std::size_t fail_at = 0;                             // the call of this number fails, counted from 1
  std::string failed;                                  // the name of the last call that failed so
  std::set<std::size_t> forgotten;                     // the waits for events of these numbers are, counted from 1
  std::set<Address> callers;                           // memory that may go while a graph would still use it
  std::optional<std::set<std::pair<int, int>>> peers;  // that can reach one another; all where it is nothing
  std::set<int> dead;                                  // devices of which every call fails
  bool hold = false;                                   // nothing runs
  std::vector<std::string> astray;
  std::mt19937 random;
  std::recursive_mutex mutex;

  [[nodiscard]] bool empty() const { return memory_.empty() && streams_.empty() && graphs_.empty() && events_.empty(); }
  [[nodiscard]] std::size_t graphs() const { return graphs_.size(); }
  [[nodiscard]] std::size_t count(const std::string& name) const {
    return static_cast<std::size_t>(std::ranges::count(calls, name));
  }
  /// Whether anything is under way.
  [[nodiscard]] bool busy() const {
    return std::ranges::any_of(streams_, [](const auto& stream) { return !stream.second.queue.empty(); });
  }

  /// Let everything run that can.
  void drain() {
    const std::scoped_lock lock(mutex);
    for (std::size_t left = 10000; busy() && left > 0; --left) {
      run_one();
    }
  }
  /// What went against the rules, in one text.
  [[nodiscard]] std::string broken() const { return plainconv::joined(astray, "; "); }

  void note(const std::string& name) {
    const std::scoped_lock lock(mutex);
    calls.push_back(name);
    auto& left = fail[name];
    if (left > 0 || ++count_ == fail_at) {
      left -= left > 0 ? 1 : 0;
      failed = name;
      throw plainconv::EngineError(name + " failed as it was told to");
    }
  }
  void rule(bool is_kept, const std::string& broken) {
    if (!is_kept) {
      astray.push_back(broken);
    }
  }
  void alive(int device) const {
    if (dead.contains(device)) {
      throw plainconv::EngineError(plainconv::text("CUDA failed (device ", device,
                                                   ": unspecified launch failure); see whether nvidia-smi runs"));
    }
  }

  int device() override {
    const std::scoped_lock lock(mutex);
    return current_[std::this_thread::get_id()];
  }
  void use_device(int device) override {
    const std::scoped_lock lock(mutex);
    note("use_device");
    alive(device);
    current_[std::this_thread::get_id()] = device;
  }

  Address allocate(std::size_t size) override { return allocated("allocate", device(), size); }
  void free(Address address) override { freed("free", address, false); }
  Address allocate_host(std::size_t size) override { return allocated("allocate_host", plainconv::host_memory, size); }
  void free_host(Address address) override { freed("free_host", address, true); }
  std::optional<int> device_of(Address address) override {
    const std::scoped_lock lock(mutex);
    const auto* found = memory_of({address, 1});
    return found == nullptr || found->device == plainconv::host_memory ? std::nullopt : std::optional(found->device);
  }

  Address create_stream() override {
    const std::scoped_lock lock(mutex);
    note("create_stream");
    alive(device());
    streams_[++last_] = {device(), {}, nullptr, nullptr};
    return last_;
  }
  void destroy_stream(Address stream) override {
    const std::scoped_lock lock(mutex);
    note("destroy_stream");
    const Stream& state = streams_.at(stream);
    alive(state.device);
    rule(state.device == device(), "a stream goes while another device is in use");
    rule(state.captured == nullptr && state.queue.empty(), "a stream is destroyed that has work left");
    streams_.erase(stream);
  }
  void copy(Address target, int target_memory, Address source, int source_memory, std::size_t size,
            Address stream) override {
    const std::scoped_lock lock(mutex);
    const bool to_host = target_memory == plainconv::host_memory;
    note(to_host ? "to host" : source_memory == plainconv::host_memory ? "to device" : "to peer");
    const auto is_of = [&](Address address, int memory) {
      const auto* found = memory_of({address, size});
      return found != nullptr && found->device == memory;
    };
    rule(is_of(target, target_memory) && is_of(source, source_memory), "a copy of what is not memory of that device");
    const bool is_to_peer = !to_host && source_memory != plainconv::host_memory && source_memory != target_memory;
    rule(!is_to_peer || reached_.contains({target_memory, source_memory}) ||
             reached_.contains({source_memory, target_memory}),
         "a copy between devices that have no access to one another");
    enqueue(stream, [=] { std::memcpy(at<void>(target), at<void>(source), size); }, {{source, size}}, {{target, size}});
  }
  bool idle(Address stream) override {
    const std::scoped_lock lock(mutex);
    note("idle");
    calls.pop_back();
    Stream& state = streams_.at(stream);
    alive(state.device);
    rule(state.captured == nullptr, "a stream is asked that is being captured");
    for (unsigned i = random() % 4; i > 0; --i) {
      run_one();
    }
    alive(state.device);
    if (!state.queue.empty()) {
      return false;
    }
    settle(state.last);
    return true;
  }

  bool can_reach(int device, int peer) override {
    const std::scoped_lock lock(mutex);
    note("can_reach");
    return !peers || peers->contains({device, peer});
  }
  void reach(int peer) override {
    const std::scoped_lock lock(mutex);
    note("reach");
    rule(!peers || peers->contains({device(), peer}), "a device that cannot reach this one");
    reached_.insert({device(), peer});
  }

  Address create_event() override {
    const std::scoped_lock lock(mutex);
    note("create_event");
    events_[++last_] = {device(), nullptr, nullptr};
    return last_;
  }
  void destroy_event(Address event) override {
    const std::scoped_lock lock(mutex);
    note("destroy_event");
    rule(events_.at(event).device == device(), "an event goes while another device is in use");
    events_.erase(event);
  }
  void mark(Address event, Address stream) override {
    const std::scoped_lock lock(mutex);
    note("mark");
    Event& state = events_.at(event);
    rule(state.device == streams_.at(stream).device, "an event of another device than the stream's");
    state.marked = enqueue(stream);
    state.capture = streams_.at(stream).captured;
  }
  void wait_for(Address event, Address stream) override {
    const std::scoped_lock lock(mutex);
    note("wait_for");
    Stream& state = streams_.at(stream);
    const Event& awaited = events_.at(event);
    rule(awaited.marked != nullptr, "an event is waited for that nobody marks");
    if (awaited.capture != nullptr) {
      rule(!awaited.capture->ended, "an event of a capture is waited for outside of it");
      state.captured = state.captured ? state.captured : awaited.capture;
    }
    rule(state.captured == awaited.capture, "a capture waits for what is not of it");
    const bool is_forgotten = forgotten.contains(++waits_);
    enqueue(stream, {}, {}, {}, is_forgotten ? std::vector<OperationPointer>{} : std::vector{awaited.marked});
  }
  bool passed(Address event) override {
    const std::scoped_lock lock(mutex);
    const Event& state = events_.at(event);
    alive(state.device);
    rule(state.capture == nullptr, "an event is asked that was marked in a capture");
    return state.marked == nullptr || state.marked->done;
  }

  void begin_capture(Address stream) override {
    const std::scoped_lock lock(mutex);
    note("begin_capture");
    rule(streams_.at(stream).captured == nullptr, "a stream is captured twice");
    streams_.at(stream).captured =
        std::make_shared<Capture>(Capture{stream, std::this_thread::get_id(), {}, {}, false});
  }
  Address end_capture(Address stream) override {
    const std::scoped_lock lock(mutex);
    const auto capture = streams_.at(stream).captured;
    rule(capture != nullptr && capture->origin == stream, "a capture ends on another stream");
    capture->ended = true;
    for (auto& [number, state] : streams_) {
      state.captured = state.captured == capture ? nullptr : state.captured;
    }
    note("end_capture");
    std::set<OperationPointer> joined;
    std::vector<OperationPointer> stack;
    if (capture->tails.contains(stream)) {
      stack.push_back(capture->tails.at(stream));
    }
    while (!stack.empty()) {
      const auto operation = stack.back();
      stack.pop_back();
      if (joined.insert(operation).second) {
        stack.insert(stack.end(), operation->needs.begin(), operation->needs.end());
      }
    }
    for (const auto& [number, tail] : capture->tails) {
      if (!joined.contains(tail)) {
        throw plainconv::EngineError("end_capture failed as a stream did not join again");
      }
    }
    graphs_[++last_] = capture->operations;
    return last_;
  }
  void launch(Address graph, Address stream) override {
    const std::scoped_lock lock(mutex);
    note("launch");
    Stream& state = streams_.at(stream);
    for (const auto& each : graphs_.at(graph)) {
      alive(each->device);
    }
    const auto first = enqueue(stream);
    std::map<OperationPointer, OperationPointer> made;
    std::vector<OperationPointer> all;
    for (const auto& each : graphs_.at(graph)) {
      auto copied = std::make_shared<Operation>(*each);
      copied->before.clear();
      for (auto& need : copied->needs) {
        need = made.at(need);
      }
      if (copied->needs.empty()) {
        copied->needs.push_back(first);
      }
      made[each] = copied;
      all.push_back(copied);
      start(copied, state);
    }
    enqueue(stream, {}, {}, {}, all);
  }
  void destroy_graph(Address graph) override {
    const std::scoped_lock lock(mutex);
    note("destroy_graph");
    graphs_.erase(graph);
  }

  /// Work on a stream, which also waits for what is in `needs`.
  OperationPointer enqueue(Address stream, std::function<void()> run = {}, std::vector<Bytes> reads = {},
                           std::vector<Bytes> writes = {}, std::vector<OperationPointer> needs = {},
                           bool stuck = false) {
    const std::scoped_lock lock(mutex);
    Stream& state = streams_.at(stream);
    alive(state.device);
    const auto last = state.captured == nullptr ? state.last : state.captured->tails[stream];
    if (last != nullptr) {
      needs.push_back(last);
    }
    auto operation = std::make_shared<Operation>(Operation{
        std::move(run), state.device, std::move(reads), std::move(writes), std::move(needs), stuck, false, false, {}});
    for (const auto* spans : {&operation->reads, &operation->writes}) {
      rule(std::ranges::all_of(*spans, [&](const Bytes& bytes) { return memory_of(bytes) != nullptr; }),
           "bytes that are not, or no longer, allocated");
    }
    if (state.captured == nullptr) {
      start(operation, state);
      state.last = operation;
    } else {
      rule(state.captured->thread == std::this_thread::get_id(), "a capture of another thread");
      state.captured->operations.push_back(operation);
      state.captured->tails[stream] = operation;
    }
    return operation;
  }
  [[nodiscard]] bool is_captured(Address stream) const { return streams_.at(stream).captured != nullptr; }
  [[nodiscard]] int device_of_stream(Address stream) const { return streams_.at(stream).device; }
  /// Whether these bytes are of one allocation of a device.
  [[nodiscard]] bool is_on(int device, const Bytes& bytes) const {
    const auto* found = memory_of(bytes);
    return found != nullptr && found->device == device;
  }

  template <class T>
  static T* at(Address address) {
    return reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr,*-reinterpret-cast)
  }

 private:
  std::set<std::pair<int, int>> reached_;  // which device has access to which
  struct Capture {
    Address origin;
    std::thread::id thread;
    std::vector<OperationPointer> operations;
    std::map<Address, OperationPointer> tails;
    bool ended;
  };
  struct Stream {
    int device = 0;
    std::deque<OperationPointer> queue;
    OperationPointer last;
    std::shared_ptr<Capture> captured;
  };
  struct Event {
    int device = 0;
    OperationPointer marked;
    std::shared_ptr<Capture> capture;
  };
  struct Memory {
    std::unique_ptr<std::byte, decltype(&std::free)> bytes{nullptr, &std::free};
    std::size_t size = 0;
    int device = 0;
  };

  Address allocated(const char* name, int device, std::size_t size) {
    const std::scoped_lock lock(mutex);
    note(name);
    if (device != plainconv::host_memory) {
      alive(device);
    }
    no_capture_here();
    auto* const bytes = static_cast<std::byte*>(std::aligned_alloc(256, (size + 255) / 256 * 256));
    std::memset(bytes, 0xFF, size);  // not what an earlier run left there, which may be the right result
    const auto address = reinterpret_cast<Address>(bytes);  // NOLINT(*-reinterpret-cast)
    Memory& made = memory_[address];
    made.bytes.reset(bytes);
    made.size = size;
    made.device = device;
    return address;
  }
  void freed(const char* name, Address address, bool of_host) {
    const std::scoped_lock lock(mutex);
    note(name);
    no_capture_here();
    const Memory& known = memory_.at(address);
    if (!of_host) {
      alive(known.device);
      rule(known.device == device(), "memory goes while another device is in use");
    }
    rule((known.device == plainconv::host_memory) == of_host, "memory is freed as what it is not");
    const Bytes bytes{address, known.size};
    const auto uses = [&](const OperationPointer& each) { return each->touches(bytes); };
    for (const auto& [number, stream] : streams_) {
      rule(std::ranges::none_of(stream.queue, [&](const auto& each) { return each->stuck || hold; }),
           "memory is freed, which waits for work that never ends");
      rule(std::ranges::none_of(stream.queue, uses), "memory is freed that a stream still uses");
    }
    for (const auto& [number, graph] : graphs_) {
      rule(callers.contains(address) || std::ranges::none_of(graph, uses), "memory is freed that a graph still uses");
    }
    memory_.erase(address);
    callers.erase(address);
  }
  void no_capture_here() {
    const auto me = std::this_thread::get_id();
    rule(std::ranges::none_of(
             streams_,
             [&](const auto& each) { return each.second.captured != nullptr && each.second.captured->thread == me; }),
         "memory in a capture");
  }
  [[nodiscard]] const Memory* memory_of(const Bytes& bytes) const {
    auto found = memory_.upper_bound(bytes.address);
    if (found == memory_.begin()) {
      return nullptr;
    }
    --found;
    return bytes.address + bytes.size <= found->first + found->second.size ? &found->second : nullptr;
  }

  /// Queue work that is in no capture, after a look at whether it may run beside what is under way.
  void start(const OperationPointer& operation, Stream& state) {
    for (const auto& need : operation->needs) {
      if (!need->settled) {
        operation->before.insert(need);
        for (const auto& other : need->before) {
          if (!other->settled) {
            operation->before.insert(other);
          }
        }
      }
    }
    for (const auto& other : unsettled_) {
      if (operation->before.contains(other)) {
        continue;
      }
      const auto hit = [&](const Bytes& bytes) { return other->touches(bytes); };
      const auto spoilt = [&](const Bytes& bytes) {
        return std::ranges::any_of(other->writes, [&](const Bytes& own) { return own.overlaps(bytes); });
      };
      rule(std::ranges::none_of(operation->writes, hit) && std::ranges::none_of(operation->reads, spoilt),
           "two pieces of work on the same memory, of which neither waits for the other");
    }
    unsettled_.insert(operation);
    state.queue.push_back(operation);
  }
  /// The host knows that this has ended, and all that it waited for.
  void settle(const OperationPointer& operation) {
    if (operation == nullptr || operation->settled) {
      return;
    }
    const auto before = std::move(operation->before);
    operation->before.clear();
    for (const auto& each : before) {
      rule(each->done, "work ended before what it waited for");
      each->settled = true;
      each->needs.clear();
      each->before.clear();
      unsettled_.erase(each);
    }
    operation->settled = true;
    operation->needs.clear();
    unsettled_.erase(operation);
  }
  /// Run something that can, of any stream.
  void run_one() {
    if (hold) {
      return;
    }
    std::vector<std::pair<Stream*, OperationPointer>> ready;
    for (auto& [number, state] : streams_) {
      for (const auto& each : state.queue) {
        const bool waits = std::ranges::any_of(each->needs, [](const auto& need) { return !need->done; });
        if (!each->stuck && !waits && !dead.contains(each->device)) {
          ready.emplace_back(&state, each);
        }
      }
    }
    if (ready.empty()) {
      return;
    }
    const auto [state, operation] = ready[random() % ready.size()];
    if (operation->run) {
      operation->run();
    }
    operation->done = true;
    std::erase(state->queue, operation);
  }

  std::map<Address, Memory> memory_;
  std::map<Address, Stream> streams_;
  std::map<Address, Event> events_;
  std::map<Address, std::vector<OperationPointer>> graphs_;
  std::unordered_set<OperationPointer> unsettled_;
  std::map<std::thread::id, int> current_;
  Address last_ = 0;
  std::size_t count_ = 0;
  std::size_t waits_ = 0;
};
