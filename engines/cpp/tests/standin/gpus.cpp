#include "standin/gpus.hpp"

Address Gpus::allocate(int device, std::size_t size) {
  no_capture_here();
  auto* const bytes = static_cast<std::byte*>(std::aligned_alloc(256, (size + 255) / 256 * 256));
  std::memset(bytes, 0xFF, size);  // not what an earlier run left there, which may be the right result
  const auto address = reinterpret_cast<Address>(bytes);  // NOLINT(*-reinterpret-cast)
  Memory& made = memory[address];
  made.bytes.reset(bytes);
  made.size = size;
  made.device = device;
  return address;
}

void Gpus::free(Address address, bool of_host) {
  no_capture_here();
  const Memory& known = memory.at(address);
  if (!of_host) {
    alive(known.device);
    rule(known.device == device(), "memory goes while another device is in use");
  }
  rule((known.device == on_host) == of_host, "memory is freed as what it is not");
  const Bytes bytes{address, known.size};
  const auto uses = [&](const Work& each) { return each->touches(bytes); };
  const bool is_late = callers.contains(address) && !dead.empty();  // a lost runner may still use it: CUDA would wait
  for (const auto& [number, stream] : streams) {
    if (dead.contains(stream.device)) {  // where nothing is under way any more
      continue;
    }
    rule(std::ranges::none_of(stream.queue, [&](const auto& each) { return each->stuck || hold; }),
         "memory is freed, which waits for work that never ends");
    rule(is_late || std::ranges::none_of(stream.queue, uses), "memory is freed that a stream still uses");
  }
  for (const auto& [number, graph] : graphs) {
    rule(callers.contains(address) || std::ranges::none_of(graph, uses), "memory is freed that a graph still uses");
  }
  if (is_late) {
    late_.push_back(std::move(memory.at(address).bytes));
  }
  memory.erase(address);
  callers.erase(address);
}

void Gpus::no_capture_here() {
  const auto is_here = [me = std::this_thread::get_id()](const auto& each) {
    return each.second.captured != nullptr && each.second.captured->thread == me;
  };
  rule(std::ranges::none_of(streams, is_here), "memory in a capture");
}

Gpus::Work Gpus::enqueue(Address stream, std::function<void()> run, std::vector<Bytes> reads, std::vector<Bytes> writes,
                         std::vector<Work> needs, bool stuck) {
  Stream& state = streams.at(stream);
  alive(state.device);
  const auto before = state.captured == nullptr ? state.last : state.captured->tails[stream];
  if (before != nullptr) {
    needs.push_back(before);
  }
  auto operation = std::make_shared<Operation>(
      Operation{std::move(run), state.device, std::move(reads), std::move(writes), std::move(needs), stuck});
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

void Gpus::start(const Work& operation, Stream& state) {
  for (const auto& need : operation->needs) {
    if (!need->settled) {
      operation->before.insert(need);
      std::ranges::copy_if(need->before, std::inserter(operation->before, operation->before.end()),
                           [](const auto& other) { return !other->settled; });
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

void Gpus::settle(const Work& operation) {
  if (operation == nullptr || operation->settled) {
    return;
  }
  auto all = std::move(operation->before);
  all.insert(operation);
  for (const auto& each : all) {
    rule(each->done, "work ended before what it waited for");
    each->settled = true;
    each->needs.clear();
    each->before.clear();
    unsettled_.erase(each);
  }
}

void Gpus::run_one() {
  if (hold) {
    return;
  }
  std::vector<std::pair<Stream*, Work>> ready;
  for (auto& [number, state] : streams) {
    for (const auto& each : state.queue) {
      const bool waits_for = std::ranges::any_of(each->needs, [](const auto& need) { return !need->done; });
      if (!each->stuck && !waits_for && !dead.contains(each->device)) {
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
