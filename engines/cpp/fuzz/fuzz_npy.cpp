// Given any bytes as a .npy file -> an array that its own bytes give again, or Error.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "npy.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<char> bytes(data, data + size);  // of exactly this size: a sanitizer sees a byte beyond
  try {
    const plainconv::Array array = plainconv::array_of_npy({bytes.data(), bytes.size()});
    const plainconv::Array again = plainconv::array_of_npy(plainconv::npy_of_array(array));
    if (again.dtype != array.dtype || again.shape != array.shape || again.bytes != array.bytes) {
      __builtin_trap();
    }
  } catch (const plainconv::Error&) {
    return 0;
  }
  return 0;
}
