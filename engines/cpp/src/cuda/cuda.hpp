// The calls of the CUDA runtime that a runner needs, each checked, and what is given back when nothing holds it any
// more.
//
// Addresses and handles are plain numbers, sizes are bytes. What is enqueued must live until its stream has ended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "plainconv/bundle.hpp"

namespace plainconv {

using Address = std::uintptr_t;

/// The memory of the host, where others are numbers of GPUs.
inline constexpr int host_memory = -1;

/// Memory of devices and host, streams, copies, events, and graphs of captured work. Every call throws EngineError, in
/// one line, where CUDA reports an error. Any number of threads may call it.
class Cuda {
 public:
  Cuda() = default;
  Cuda(const Cuda&) = delete;
  Cuda& operator=(const Cuda&) = delete;
  Cuda(Cuda&&) = delete;
  Cuda& operator=(Cuda&&) = delete;
  virtual ~Cuda() = default;

  /// The device that this thread uses, and to have it use another.
  [[nodiscard]] virtual int device() = 0;
  virtual void use_device(int device) = 0;

  /// Device memory, at a multiple of 256.
  [[nodiscard]] virtual Address allocate(std::size_t size) = 0;
  virtual void free(Address address) = 0;
  /// Host memory that is locked in place, so that every device copies it by itself.
  [[nodiscard]] virtual Address allocate_host(std::size_t size) = 0;
  virtual void free_host(Address address) = 0;
  /// The device that memory is of; nothing where it is the host's.
  [[nodiscard]] virtual std::optional<int> device_of(Address address) = 0;

  [[nodiscard]] virtual Address create_stream() = 0;
  virtual void destroy_stream(Address stream) = 0;
  /// Enqueue a copy between memories: `host_memory`, which must be locked, or a device's, which may be one and the
  /// same; of two devices the one must have access to the other (`reach`). It may be captured.
  virtual void copy(Address target, int target_memory, Address source, int source_memory, std::size_t size,
                    Address stream) = 0;
  /// Whether everything enqueued on a stream has ended. Does not wait.
  [[nodiscard]] virtual bool idle(Address stream) = 0;

  /// Whether one device can access the memory of another; to let the device that this thread uses do so.
  [[nodiscard]] virtual bool can_reach(int device, int peer) = 0;
  virtual void reach(int peer) = 0;

  /// An event of the device that this thread uses, which keeps no time.
  [[nodiscard]] virtual Address create_event() = 0;
  virtual void destroy_event(Address event) = 0;
  /// Enqueue the coming to pass of an event; it and the stream are of one device.
  virtual void mark(Address event, Address stream) = 0;
  /// Have what is enqueued from now on wait for the last `mark` of an event so far, on whatever device it is. In a
  /// capture, a stream that waits for an event of the capture becomes part of it.
  virtual void wait_for(Address event, Address stream) = 0;
  /// Whether the last `mark` of an event has come to pass. Does not wait.
  [[nodiscard]] virtual bool passed(Address event) = 0;

  /// From now on, what this thread enqueues on a stream becomes a graph, and does not run.
  virtual void begin_capture(Address stream) = 0;
  /// The graph, ready to launch. The stream and those that joined it are as before, however this ends.
  [[nodiscard]] virtual Address end_capture(Address stream) = 0;
  virtual void launch(Address graph, Address stream) = 0;
  virtual void destroy_graph(Address graph) = 0;
};

/// By way of the CUDA runtime. Throws EngineError where there is none that works.
[[nodiscard]] std::shared_ptr<Cuda> cuda_runtime();

/// Has this thread use a device for as long as it lives, and then the one that it used before.
class UsingDevice {
 public:
  UsingDevice(Cuda& cuda, int device) : cuda_(cuda), before_(cuda.device()) {
    if (before_ != device) {
      cuda.use_device(device);
    }
  }
  UsingDevice(const UsingDevice&) = delete;
  UsingDevice& operator=(const UsingDevice&) = delete;
  UsingDevice(UsingDevice&&) = delete;
  UsingDevice& operator=(UsingDevice&&) = delete;
  ~UsingDevice() {
    try {
      if (cuda_.device() != before_) {
        cuda_.use_device(before_);
      }
    } catch (const EngineError&) {  // NOLINT(bugprone-empty-catch): a GPU that is lost is in use no more
    }
  }

 private:
  Cuda& cuda_;
  int before_;
};

/// Gives an object back while its device is in use, if it still can be.
struct DeleteOnDevice {
  Cuda* cuda = nullptr;
  int device = 0;

  template <class T>
  void operator()(T* object) const noexcept {
    try {
      cuda->use_device(device);
    } catch (const EngineError&) {  // NOLINT(bugprone-empty-catch): what is lost can only be let go of
    }
    delete object;  // NOLINT(cppcoreguidelines-owning-memory): this is what owns it
  }
};

/// An object of a device.
template <class T>
using OnDevice = std::unique_ptr<T, DeleteOnDevice>;

/// A handle or an address of CUDA's, given back while its device is in use, if it still can be.
class Handle {
 public:
  using Release = void (Cuda::*)(Address);

  Handle() = default;
  Handle(Cuda& cuda, int device, Address value, Release release) noexcept
      : cuda_(&cuda), device_(device), value_(value), release_(release) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  Handle(Handle&& other) noexcept { swap(other); }
  Handle& operator=(Handle&& other) noexcept {
    Handle(std::move(other)).swap(*this);
    return *this;
  }
  ~Handle() {
    if (value_ == 0) {
      return;
    }
    try {
      if (device_ != host_memory) {
        cuda_->use_device(device_);
      }
    } catch (const EngineError&) {  // NOLINT(bugprone-empty-catch): what is lost can only be let go of
    }
    try {
      (cuda_->*release_)(value_);
    } catch (const EngineError&) {  // NOLINT(bugprone-empty-catch): the same
    }
  }

  [[nodiscard]] Address value() const noexcept { return value_; }

  void swap(Handle& other) noexcept {
    std::swap(cuda_, other.cuda_);
    std::swap(device_, other.device_);
    std::swap(value_, other.value_);
    std::swap(release_, other.release_);
  }

 private:
  Cuda* cuda_ = nullptr;
  int device_ = host_memory;
  Address value_ = 0;
  Release release_ = nullptr;
};

}  // namespace plainconv
