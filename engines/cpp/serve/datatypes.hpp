// The protocol's names of types of numbers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "bundle/json.hpp"
#include "plainconv/bundle.hpp"

namespace plainconv::serve {

enum class Kind : std::uint8_t { boolean, whole, fraction };

/// A type of the protocol. Some are no type of any model's; `least` and `most` are a whole type's.
struct Datatype {
  std::string_view name;
  std::size_t size;
  Kind kind;
  std::optional<DType> dtype;
  std::int64_t least = 0;
  std::uint64_t most = 0;
};

inline constexpr std::array datatypes = {
    Datatype{"BOOL", 1, Kind::boolean, DType::bool_},
    Datatype{"UINT8", 1, Kind::whole, DType::uint8, 0, UINT8_MAX},
    Datatype{"UINT16", 2, Kind::whole, std::nullopt, 0, UINT16_MAX},
    Datatype{"UINT32", 4, Kind::whole, std::nullopt, 0, UINT32_MAX},
    Datatype{"UINT64", 8, Kind::whole, std::nullopt, 0, UINT64_MAX},
    Datatype{"INT8", 1, Kind::whole, DType::int8, INT8_MIN, INT8_MAX},
    Datatype{"INT16", 2, Kind::whole, std::nullopt, INT16_MIN, INT16_MAX},
    Datatype{"INT32", 4, Kind::whole, DType::int32, INT32_MIN, INT32_MAX},
    Datatype{"INT64", 8, Kind::whole, DType::int64, INT64_MIN, INT64_MAX},
    Datatype{"FP16", 2, Kind::fraction, DType::float16},
    Datatype{"BF16", 2, Kind::fraction, DType::bfloat16},
    Datatype{"FP32", 4, Kind::fraction, DType::float32},
    Datatype{"FP64", 8, Kind::fraction, DType::float64},
};

/// What was sent as the datatype of the input `tensor`. Throws Refused where the protocol has no such type.
[[nodiscard]] const Datatype& datatype_sent(std::string_view tensor, const json::Value* sent);

/// The protocol's name of a dtype.
[[nodiscard]] std::string_view datatype_of(DType dtype) noexcept;

}  // namespace plainconv::serve
