#include "cuda/cuda_driver.hpp"

#include <dlfcn.h>

#include <array>

#include "plainconv/bundle.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

constexpr auto* library = "libcuda.so.1";
constexpr int no_device = 100;       // CUDA_ERROR_NO_DEVICE
constexpr int major_attribute = 75;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
constexpr int minor_attribute = 76;

/// The driver's library, which stays loaded: it cannot be unloaded while CUDA uses it.
class Driver {
 public:
  Driver() : handle_(::dlopen(library, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) {
      throw EngineError(
          text("no NVIDIA driver on this machine (", library, " not found); install one, or use ONNX Runtime"));
    }
    call<unsigned>("cuInit", 0U);
  }

  template <class... Arguments>
  void call(const char* name, Arguments... arguments) const {
    using Function = int (*)(Arguments...);
    auto* const found = ::dlsym(handle_, name);
    if (found == nullptr) {
      throw EngineError(text("the NVIDIA driver has no ", name, "; install a recent one"));
    }
    const int code = reinterpret_cast<Function>(found)(arguments...);  // NOLINT(*-reinterpret-cast): what dlsym is for
    if (code == no_device) {
      throw EngineError("no GPU on this machine (the NVIDIA driver sees none); see to CUDA_VISIBLE_DEVICES");
    }
    if (code != 0) {
      throw EngineError(
          text("the NVIDIA driver does not answer (", name, ": error ", code, "); see whether nvidia-smi runs"));
    }
  }

 private:
  void* handle_;
};

}  // namespace

Gpu find_gpu(int number) {
  const Driver driver;
  int count = 0;
  driver.call("cuDeviceGetCount", &count);
  if (number < 0 || number >= count) {
    throw EngineError(text("no GPU ", number, " on this machine, which has ", count, "; see to CUDA_VISIBLE_DEVICES"));
  }
  int device = 0;
  int major = 0;
  int minor = 0;
  std::array<char, 256> name{};
  driver.call("cuDeviceGet", &device, number);
  driver.call("cuDeviceGetName", name.data(), static_cast<int>(name.size() - 1), device);
  driver.call("cuDeviceGetAttribute", &major, major_attribute, device);
  driver.call("cuDeviceGetAttribute", &minor, minor_attribute, device);
  return {name.data(), text("sm", major, minor)};
}

}  // namespace plainconv
