// TensorRT, or TensorRT-RTX, as a backend: this library is built with one of them.
#pragma once

#include <optional>
#include <string_view>

#include "backends.hpp"

namespace plainconv {

#ifdef PLAINCONV_TENSORRT_RTX
inline constexpr std::string_view tensorrt_name = "tensorrt_rtx";
#else
inline constexpr std::string_view tensorrt_name = "tensorrt";
#endif

/// See Backend::load. In parts each of the split's devices is a GPU, each place a stream.
[[nodiscard]] std::optional<Loaded> load_by_tensorrt(const Bundle& bundle, const Options& options, Reasons& reasons);

}  // namespace plainconv
