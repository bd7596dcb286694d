// What TensorRT-RTX says of an engine before it loads it, in words. The same as Python's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace plainconv {

/// As its EngineValidity has them.
enum class Validity : std::uint8_t { valid, suboptimal, invalid };

/// What is wrong with an engine, or could be better: the runtime's name and version, what it finds, and the remedy.
///
/// `causes` are bits of its EngineInvalidityDiagnostics; where none is set, `error` says what the runtime's log does.
[[nodiscard]] std::string words_of(Validity validity, std::uint64_t causes, std::string_view runtime,
                                   const std::function<std::string()>& error);

}  // namespace plainconv
