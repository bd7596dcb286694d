// `Cuda` by way of the CUDA runtime. The only file that includes its header, but for what TensorRT's own include.
#include <cuda_runtime_api.h>

#include <bit>

#include "cuda/cuda.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

void* pointer(Address address) noexcept { return std::bit_cast<void*>(address); }
cudaStream_t stream_of(Address stream) noexcept { return std::bit_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(Address event) noexcept { return std::bit_cast<cudaEvent_t>(event); }

[[noreturn]] void fail(const char* call, cudaError_t error, const std::string& sized, const char* memory) {
  static_cast<void>(cudaGetLastError());  // forgets it, so that nobody takes it for an error of theirs
  if (error == cudaErrorMemoryAllocation) {
    throw EngineError(text("out of ", memory, " (", call, sized, "); free some, or run a smaller batch"));
  }
  throw EngineError(text("CUDA failed (", call, ": ", cudaGetErrorString(error),
                         "); see whether nvidia-smi runs and the driver is recent"));
}

void check(const char* call, cudaError_t error) {
  if (error != cudaSuccess) {
    fail(call, error, "", "GPU memory");
  }
}

bool ended(const char* call, cudaError_t error) {
  if (error == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  check(call, error);
  return true;
}

class CudaRuntime : public Cuda {
 public:
  int device() override {
    int device = 0;
    check("cudaGetDevice", cudaGetDevice(&device));
    return device;
  }
  void use_device(int device) override { check("cudaSetDevice", cudaSetDevice(device)); }

  Address allocate(std::size_t size) override {
    void* memory = nullptr;
    if (const auto error = cudaMalloc(&memory, size); error != cudaSuccess) {
      fail("cudaMalloc", error, text(" of ", size, " bytes"), "GPU memory");
    }
    return std::bit_cast<Address>(memory);
  }
  void free(Address address) override { check("cudaFree", cudaFree(pointer(address))); }
  Address allocate_host(std::size_t size) override {
    void* memory = nullptr;  // page-locked for every device and not for one
    if (const auto error = cudaHostAlloc(&memory, size, cudaHostAllocPortable); error != cudaSuccess) {
      fail("cudaHostAlloc", error, text(" of ", size, " bytes"), "page-locked host memory");
    }
    return std::bit_cast<Address>(memory);
  }
  void free_host(Address address) override { check("cudaFreeHost", cudaFreeHost(pointer(address))); }
  std::optional<int> device_of(Address address) override {
    cudaPointerAttributes attributes{};
    check("cudaPointerGetAttributes", cudaPointerGetAttributes(&attributes, pointer(address)));
    const bool on_device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
    return on_device ? std::optional(attributes.device) : std::nullopt;
  }

  Address create_stream() override {
    cudaStream_t stream = nullptr;  // apart from the default stream, which would wait for everyone else's work
    check("cudaStreamCreateWithFlags", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return std::bit_cast<Address>(stream);
  }
  void destroy_stream(Address stream) override { check("cudaStreamDestroy", cudaStreamDestroy(stream_of(stream))); }
  void copy(Address target, int /*by its address*/, Address source, int /*by its address*/, std::size_t size,
            Address stream) override {  // cudaMemcpyPeerAsync cannot be captured
    check("cudaMemcpyAsync",
          cudaMemcpyAsync(pointer(target), pointer(source), size, cudaMemcpyDefault, stream_of(stream)));
  }
  bool idle(Address stream) override { return ended("cudaStreamQuery", cudaStreamQuery(stream_of(stream))); }

  bool can_reach(int device, int peer) override {
    int can = 0;
    check("cudaDeviceCanAccessPeer", cudaDeviceCanAccessPeer(&can, device, peer));
    return can != 0;
  }
  void reach(int peer) override {
    const auto error = cudaDeviceEnablePeerAccess(peer, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
      static_cast<void>(cudaGetLastError());
    } else {
      check("cudaDeviceEnablePeerAccess", error);
    }
  }

  Address create_event() override {
    cudaEvent_t event = nullptr;
    check("cudaEventCreateWithFlags", cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return std::bit_cast<Address>(event);
  }
  void destroy_event(Address event) override { check("cudaEventDestroy", cudaEventDestroy(event_of(event))); }
  void mark(Address event, Address stream) override {
    check("cudaEventRecord", cudaEventRecord(event_of(event), stream_of(stream)));
  }
  void wait_for(Address event, Address stream) override {
    check("cudaStreamWaitEvent", cudaStreamWaitEvent(stream_of(stream), event_of(event), cudaEventWaitDefault));
  }
  bool passed(Address event) override { return ended("cudaEventQuery", cudaEventQuery(event_of(event))); }

  void begin_capture(Address stream) override {  // the other threads keep their freedom
    check("cudaStreamBeginCapture", cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal));
  }
  Address end_capture(Address stream) override {
    cudaGraph_t graph = nullptr;
    check("cudaStreamEndCapture", cudaStreamEndCapture(stream_of(stream), &graph));
    cudaGraphExec_t ready = nullptr;
    const auto error = cudaGraphInstantiate(&ready, graph, 0);
    const auto destroyed = cudaGraphDestroy(graph);
    check("cudaGraphInstantiate", error);
    if (destroyed != cudaSuccess) {
      static_cast<void>(cudaGraphExecDestroy(ready));
      check("cudaGraphDestroy", destroyed);
    }
    return std::bit_cast<Address>(ready);
  }
  void launch(Address graph, Address stream) override {
    check("cudaGraphLaunch", cudaGraphLaunch(std::bit_cast<cudaGraphExec_t>(graph), stream_of(stream)));
  }
  void destroy_graph(Address graph) override {
    check("cudaGraphExecDestroy", cudaGraphExecDestroy(std::bit_cast<cudaGraphExec_t>(graph)));
  }
};

}  // namespace

std::shared_ptr<Cuda> cuda_runtime() {
  auto cuda = std::make_shared<CudaRuntime>();
  static_cast<void>(cuda->device());
  return cuda;
}

}  // namespace plainconv
