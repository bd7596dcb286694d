// Which NVIDIA GPUs this machine has, asked of the driver itself, which need not be there to be asked for.
#pragma once

#include <string>

namespace plainconv {

/// A visible GPU: its name, and its compute capability as a target, as in "sm86".
struct Gpu {
  std::string name;
  std::string target;
};

/// The GPU of that number, in the order of CUDA_VISIBLE_DEVICES.
///
/// Throws EngineError where the machine has no NVIDIA driver, or the driver no such GPU.
[[nodiscard]] Gpu find_gpu(int number);

}  // namespace plainconv
