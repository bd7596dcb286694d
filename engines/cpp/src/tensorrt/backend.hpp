// TensorRT, or TensorRT-RTX, as a backend: this library is built with one of them.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "backends.hpp"

namespace plainconv {

#ifdef PLAINCONV_TENSORRT_RTX
inline constexpr std::string_view tensorrt_name = "tensorrt_rtx";
#else
inline constexpr std::string_view tensorrt_name = "tensorrt";
#endif

/// See Backend::load.
[[nodiscard]] std::unique_ptr<Runner> load_by_tensorrt(const Bundle& bundle, const std::string& precision,
                                                       const Options& options);

/// See Backend::load_split. Each of the split's devices is a GPU, each place a stream.
[[nodiscard]] std::unique_ptr<Runner> load_split_by_tensorrt(const Bundle& bundle, const SplitRecord& split,
                                                             const Options& options);

/// See Backend::fastest.
[[nodiscard]] std::string fastest_by_tensorrt(const Bundle& bundle, const Options& options);

}  // namespace plainconv
