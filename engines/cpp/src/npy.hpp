// Arrays as NumPy's .npy files: versions 1.0 and 2.0, little-endian, C order, the dtypes of a network's tensors.
#pragma once

#include <string>
#include <string_view>

#include "plainconv/bundle.hpp"

namespace plainconv {

/// The array in the bytes of a .npy file. bfloat16, which NumPy has not, is two raw bytes there ('<V2').
///
/// Throws Error, in one line that does not name the file, for anything else.
[[nodiscard]] Array array_of_npy(std::string_view bytes);

/// The bytes of a .npy file, as `numpy.save` writes them.
[[nodiscard]] std::string npy_of_array(const Array& array);

}  // namespace plainconv
