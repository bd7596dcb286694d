// The one line of what TensorRT says while it loads an engine that tells what went wrong. The same as Python's.
#pragma once

#include <string>
#include <vector>

namespace plainconv {

/// The error that says what is wrong, without the C++ around it.
///
/// A machine without a driver adds an error of its own to every other; that one tells nothing.
[[nodiscard]] std::string first_error(const std::vector<std::string>& errors);

/// Why the bytes of an engine were refused, and what to do about it.
[[nodiscard]] std::string why_not_loaded(const std::vector<std::string>& errors);

}  // namespace plainconv
