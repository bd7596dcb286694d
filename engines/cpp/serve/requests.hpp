// A request and its answer, without the protocol that carries them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/json.hpp"
#include "datatypes.hpp"
#include "numbers.hpp"
#include "options.hpp"
#include "plainconv/bundle.hpp"

namespace plainconv::serve {

/// The first byte, and how many; both below 2^63.
struct Extent {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

/// Where a tensor lies in shared memory: a region, and where in it.
struct Place {
  std::string region;
  Extent extent;
};

/// An input as it was sent. `bytes` are those of the body, or of `own`; of one that has a place, they are copied later.
struct SentTensor {
  std::string name;
  const Datatype* datatype = nullptr;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::vector<std::byte> own;
  std::optional<Place> place;
};

/// An output that was asked for; `binary` is how it is to be sent, nothing where the request says so for all. One with
/// a place is to be put there.
struct WantedOutput {
  std::string name;
  std::optional<bool> binary;
  std::optional<Place> place;
};

/// What was sent; `outputs` that are wanted (none: all), and how those are sent that do not say so themselves.
struct InferRequest {
  std::vector<SentTensor> inputs;
  std::vector<WantedOutput> outputs;
  std::string id;
  std::optional<Seconds> timeout;
  bool binary = false;
};

/// An output to be sent, or one that lies in its place. Its bytes may be missing while only the JSON of binary ones is
/// asked for.
struct SentOutput {
  std::string_view name;
  DType dtype;
  std::span<const std::int64_t> shape;
  std::size_t size;  // of its bytes
  bool binary;
  std::span<const std::byte> bytes;
  const Place* place = nullptr;
};

inline constexpr std::size_t most_tensors = 256;
inline constexpr std::size_t most_id = 1024;

// Parameters of a tensor that lies in shared memory.
inline constexpr std::string_view region_key = "shared_memory_region";
inline constexpr std::string_view offset_key = "shared_memory_offset";
inline constexpr std::string_view size_key = "shared_memory_byte_size";

/// Whether there is no value, or a null.
[[nodiscard]] bool is_null(const json::Value* value) noexcept;

// What any protocol sends, as JSON has it. All throw Refused.

/// For a parameter of `what` that asks for something else than this server would do.
void refuse_not_offered(std::string_view what, const json::Value& parameters);
/// Where a tensor lies in shared memory, nothing where its parameters name no region; one where none are `offered`.
[[nodiscard]] std::optional<Place> place_of(std::string_view what, const json::Value& parameters, bool offered);
/// An offset, 0 where there is none, and a size, as they were sent.
[[nodiscard]] Extent extent_of(std::string_view what, const json::Value* offset, const json::Value* size);
/// The parameter `timeout`, in microseconds.
[[nodiscard]] std::optional<Seconds> timeout_of(const json::Value& parameters);
[[nodiscard]] std::string id_of(const json::Value* value);
[[nodiscard]] std::vector<std::int64_t> shape_of(std::string_view tensor, const json::Value* sent);
/// The tensor that `bytes` are, of its datatype and shape; they stay where they are, if a number may be there.
void take_bytes(SentTensor& tensor, std::span<const std::byte> bytes);
/// The tensor that `numbers` are, which were `sent`.
void take_numbers(SentTensor& tensor, const json::Value* sent, const std::optional<Numbers>& numbers);

}  // namespace plainconv::serve
