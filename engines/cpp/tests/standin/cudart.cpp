// The CUDA runtime's functions on the stand-in for GPUs. What is not here the library does not call: above all copies
// between peers and waits for a whole device, which a capture does not survive.
#include <bit>

#include "standin/gpus.hpp"

namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string words;

/// What a function answers that does this, on behalf of a name that may be told to fail.
template <class Act>
cudaError_t answer(const char* name, Act act) {
  Gpus& gpus = *Gpus::here;
  const std::scoped_lock lock(gpus.mutex);
  try {
    if (*name != '\0') {
      gpus.note(name);
    }
    act(gpus);
    return cudaSuccess;
  } catch (const cudaError_t error) {
    words = error == cudaErrorUnknown ? gpus.failed + " failed as it was told to" : "";
    return last_error = error;
  }
}

/// The state of a stream whose device lives.
Gpus::Stream& alive(Gpus& gpus, cudaStream_t stream) {
  Gpus::Stream& state = gpus.streams.at(std::bit_cast<Address>(stream));
  gpus.alive(state.device);
  return state;
}

}  // namespace

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorUnknown         ? words.c_str()
         : error == cudaErrorLaunchFailure ? "unspecified launch failure"
                                           : "an error of the stand-in";
}

cudaError_t cudaGetDevice(int* device) {
  return answer("", [&](Gpus& gpus) { *device = gpus.device(); });
}

cudaError_t cudaSetDevice(int device) {
  return answer("use_device", [&](Gpus& gpus) {
    gpus.alive(device);
    gpus.device() = device;
  });
}

cudaError_t cudaMalloc(void** memory, std::size_t size) {
  return answer("allocate", [&](Gpus& gpus) {
    gpus.alive(gpus.device());
    *memory = Gpus::at<void>(gpus.allocate(gpus.device(), size));
  });
}

cudaError_t cudaFree(void* memory) {
  return answer("free", [&](Gpus& gpus) { gpus.free(std::bit_cast<Address>(memory), false); });
}

cudaError_t cudaHostAlloc(void** memory, std::size_t size, unsigned flags) {
  return answer("allocate_host", [&](Gpus& gpus) {
    gpus.rule(flags == cudaHostAllocPortable, "host memory that one device alone copies by itself");
    *memory = Gpus::at<void>(gpus.allocate(on_host, size));
  });
}

cudaError_t cudaFreeHost(void* memory) {
  return answer("free_host", [&](Gpus& gpus) { gpus.free(std::bit_cast<Address>(memory), true); });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
  return answer("", [&](Gpus& gpus) {
    const auto* found = gpus.memory_of({std::bit_cast<Address>(memory), 1});
    const bool is_on_device = found != nullptr && found->device != on_host;
    attributes->type = is_on_device ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
    attributes->device = is_on_device ? found->device : 0;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return answer("create_stream", [&](Gpus& gpus) {
    gpus.alive(gpus.device());
    gpus.rule(flags == cudaStreamNonBlocking, "a stream that waits for the default one");
    gpus.streams[++gpus.last] = {gpus.device()};
    *stream = std::bit_cast<cudaStream_t>(gpus.last);
  });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return answer("destroy_stream", [&](Gpus& gpus) {
    const Gpus::Stream& state = alive(gpus, stream);
    gpus.rule(state.device == gpus.device(), "a stream goes while another device is in use");
    gpus.rule(state.captured == nullptr && state.queue.empty(), "a stream is destroyed that has work left");
    gpus.streams.erase(std::bit_cast<Address>(stream));
  });
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t size, cudaMemcpyKind kind, cudaStream_t on) {
  return answer("", [&](Gpus& gpus) {
    const Bytes from{std::bit_cast<Address>(source), size};
    const Bytes to{std::bit_cast<Address>(target), size};
    const auto* read = gpus.memory_of(from);
    const auto* written = gpus.memory_of(to);
    const bool is_known = read != nullptr && written != nullptr;
    gpus.rule(is_known && kind == cudaMemcpyDefault, "a copy of what is no memory of a device or locked on the host");
    const int here = is_known ? read->device : on_host;
    const int there = is_known ? written->device : on_host;
    gpus.note(there == on_host ? "to host" : here == on_host ? "to device" : "to peer");
    gpus.rule(here == on_host || there == on_host || here == there || gpus.reached.contains({here, there}) ||
                  gpus.reached.contains({there, here}),
              "a copy between devices that have no access to one another");
    gpus.enqueue(std::bit_cast<Address>(on), [=] { std::memcpy(target, source, size); }, {from}, {to});
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return answer("", [&](Gpus& gpus) {
    gpus.note("idle", false);
    Gpus::Stream& state = alive(gpus, stream);
    gpus.rule(state.captured == nullptr, "a stream is asked that is being captured");
    for (unsigned i = gpus.random() % 4; i > 0; --i) {
      gpus.run_one();
    }
    gpus.alive(state.device);
    if (!state.queue.empty()) {
      throw cudaErrorNotReady;
    }
    gpus.settle(state.last);
  });
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  return answer("can_reach", [&](Gpus& gpus) { *can = !gpus.peers || gpus.peers->contains({device, peer}) ? 1 : 0; });
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned /*flags*/) {
  return answer("reach", [&](Gpus& gpus) {
    const std::pair way(gpus.device(), peer);
    gpus.rule(!gpus.peers || gpus.peers->contains(way), "a device that cannot reach this one");
    if (!gpus.reached.insert(way).second) {
      throw cudaErrorPeerAccessAlreadyEnabled;
    }
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  return answer("create_event", [&](Gpus& gpus) {
    gpus.events[++gpus.last] = {gpus.device()};
    *event = std::bit_cast<cudaEvent_t>(gpus.last);
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return answer("destroy_event", [&](Gpus& gpus) {
    const auto number = std::bit_cast<Address>(event);
    gpus.alive(gpus.events.at(number).device);
    gpus.rule(gpus.events.at(number).device == gpus.device(), "an event goes while another device is in use");
    gpus.events.erase(number);
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return answer("mark", [&](Gpus& gpus) {
    Gpus::Event& state = gpus.events.at(std::bit_cast<Address>(event));
    const Gpus::Stream& on = alive(gpus, stream);
    gpus.rule(state.device == on.device, "an event of another device than the stream's");
    state.marked = gpus.enqueue(std::bit_cast<Address>(stream));
    state.capture = on.captured;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  return answer("wait_for", [&](Gpus& gpus) {
    Gpus::Stream& state = alive(gpus, stream);
    const Gpus::Event& awaited = gpus.events.at(std::bit_cast<Address>(event));
    gpus.rule(awaited.marked != nullptr, "an event is waited for that nobody marks");
    if (awaited.capture != nullptr) {
      gpus.rule(!awaited.capture->ended, "an event of a capture is waited for outside of it");
      state.captured = state.captured ? state.captured : awaited.capture;
    }
    gpus.rule(state.captured == awaited.capture, "a capture waits for what is not of it");
    const bool is_forgotten = gpus.forgotten.contains(++gpus.waits);
    gpus.enqueue(std::bit_cast<Address>(stream), {}, {}, {},
                 is_forgotten ? std::vector<Gpus::Work>{} : std::vector{awaited.marked});
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return answer("", [&](Gpus& gpus) {
    const Gpus::Event& state = gpus.events.at(std::bit_cast<Address>(event));
    gpus.alive(state.device);
    gpus.rule(state.capture == nullptr, "an event is asked that was marked in a capture");
    if (state.marked != nullptr && !state.marked->done) {
      throw cudaErrorNotReady;
    }
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return answer("begin_capture", [&](Gpus& gpus) {
    Gpus::Stream& state = alive(gpus, stream);
    gpus.rule(state.captured == nullptr, "a stream is captured twice");
    gpus.rule(mode == cudaStreamCaptureModeThreadLocal, "a capture that what other threads do breaks");
    state.captured =
        std::make_shared<Gpus::Capture>(Gpus::Capture{std::bit_cast<Address>(stream), std::this_thread::get_id()});
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return answer("", [&](Gpus& gpus) {
    const auto number = std::bit_cast<Address>(stream);
    const auto capture = gpus.streams.at(number).captured;
    gpus.rule(capture->origin == number, "a capture ends on another stream");
    capture->ended = true;
    for (auto& [other, state] : gpus.streams) {
      state.captured = state.captured == capture ? nullptr : state.captured;
    }
    gpus.note("end_capture");
    std::set<Gpus::Work> joined;
    std::vector<Gpus::Work> stack;
    if (capture->tails.contains(number)) {
      stack.push_back(capture->tails.at(number));
    }
    while (!stack.empty()) {
      const auto operation = stack.back();
      stack.pop_back();
      if (joined.insert(operation).second) {
        stack.insert(stack.end(), operation->needs.begin(), operation->needs.end());
      }
    }
    const auto is_joined = [&](const auto& tail) { return joined.contains(tail.second); };
    if (!std::ranges::all_of(capture->tails, is_joined)) {
      throw cudaErrorStreamCaptureUnjoined;
    }
    gpus.captures[++gpus.last] = capture->operations;
    *graph = std::bit_cast<cudaGraph_t>(gpus.last);
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long /*flags*/) {
  return answer("instantiate", [&](Gpus& gpus) {
    gpus.graphs[++gpus.last] = gpus.captures.at(std::bit_cast<Address>(graph));
    *ready = std::bit_cast<cudaGraphExec_t>(gpus.last);
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return answer("", [&](Gpus& gpus) { gpus.captures.erase(std::bit_cast<Address>(graph)); });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  return answer("launch", [&](Gpus& gpus) {
    const auto number = std::bit_cast<Address>(stream);
    const auto& operations = gpus.graphs.at(std::bit_cast<Address>(graph));
    std::ranges::for_each(operations, [&](const auto& each) { gpus.alive(each->device); });
    const auto first = gpus.enqueue(number);
    std::map<Gpus::Work, Gpus::Work> made;
    std::vector<Gpus::Work> all;
    for (const auto& each : operations) {
      auto copied = std::make_shared<Operation>(*each);
      std::ranges::transform(copied->needs, copied->needs.begin(), [&](const auto& need) { return made.at(need); });
      if (copied->needs.empty()) {
        copied->needs.push_back(first);
      }
      made[each] = copied;
      all.push_back(copied);
      gpus.start(copied, gpus.streams.at(number));
    }
    gpus.enqueue(number, {}, {}, {}, all);
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  return answer("destroy_graph", [&](Gpus& gpus) { gpus.graphs.erase(std::bit_cast<Address>(graph)); });
}
}
