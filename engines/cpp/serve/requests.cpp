#include "requests.hpp"

#include <algorithm>
#include <array>
#include <cstdint>

#include "product.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {

using json::Array;
using json::Value;

namespace {

constexpr std::int64_t most_timeout = std::int64_t{1} << 53U;

/// Whether a value asks for nothing: null, 0, false or "".
bool asks_nothing(const Value* value) noexcept {
  if (is_null(value)) {
    return true;
  }
  if (const auto* flag = std::get_if<bool>(value)) {
    return !*flag;
  }
  if (const auto* whole = std::get_if<std::int64_t>(value)) {
    return *whole == 0;
  }
  if (const auto* number = std::get_if<double>(value)) {
    return *number == 0;
  }
  const auto* string = std::get_if<std::string>(value);
  return string != nullptr && string->empty();
}

Refused not_offered(std::string_view what, std::string_view name, std::string_view key) {
  return bad_request(text(what, " asks for ", name, " (", key, "), which this server does not offer; leave it out"));
}

}  // namespace

bool is_null(const Value* value) noexcept { return value == nullptr || std::holds_alternative<std::nullptr_t>(*value); }

void refuse_not_offered(std::string_view what, const Value& parameters) {
  struct NotOffered {
    std::string_view key;
    std::string_view name;
  };
  constexpr std::array all = {NotOffered{"classification", "classification"},
                              NotOffered{"sequence_id", "sequences of requests"}};
  for (const NotOffered& each : all) {
    if (!asks_nothing(json::find(parameters, each.key))) {
      throw not_offered(what, each.name, each.key);
    }
  }
}

std::optional<Place> place_of(std::string_view what, const Value& parameters, bool offered) {
  const Value* sent = json::find(parameters, region_key);
  if (asks_nothing(sent)) {
    return std::nullopt;
  }
  if (!offered) {
    throw not_offered(what, "shared memory", region_key);
  }
  const auto* region = std::get_if<std::string>(sent);
  if (region == nullptr) {
    throw unknown(text("there is no shared memory region ", as_sent(sent), " for ", what, "; register it first"));
  }
  return Place{*region, extent_of(what, json::find(parameters, offset_key), json::find(parameters, size_key))};
}

Extent extent_of(std::string_view what, const Value* offset, const Value* size) {
  const auto whole_of = [&](const Value* sent, std::string_view name, std::int64_t least) {
    const auto* whole = sent == nullptr ? nullptr : std::get_if<std::int64_t>(sent);
    if (whole == nullptr || *whole < least) {
      throw bad_request(text(what, " has ", name, " ", as_sent(sent), " in shared memory, wanted a whole number from ",
                             least, ", below 2^63"));
    }
    return static_cast<std::uint64_t>(*whole);
  };
  return {is_null(offset) ? 0 : whole_of(offset, "offset", 0), whole_of(size, "byte_size", 1)};
}

std::optional<Seconds> timeout_of(const Value& parameters) {
  const Value* value = json::find(parameters, "timeout");
  if (is_null(value) || (!std::holds_alternative<std::string>(*value) && asks_nothing(value))) {
    return std::nullopt;
  }
  const auto* microseconds = std::get_if<std::int64_t>(value);
  if (microseconds == nullptr || *microseconds < 0 || *microseconds >= most_timeout) {
    throw bad_request(text("the request has timeout ", as_sent(value), ", wanted whole microseconds"));
  }
  return std::chrono::duration_cast<Seconds>(std::chrono::microseconds(*microseconds));
}

std::string id_of(const Value* value) {
  if (asks_nothing(value)) {
    return "";
  }
  const auto* id = std::get_if<std::string>(value);
  if (id == nullptr || cut(*id, most_id).size() != id->size()) {
    throw bad_request(text("the request has id ", as_sent(value), ", wanted text of up to ", most_id, " characters"));
  }
  return *id;
}

std::vector<std::int64_t> shape_of(std::string_view tensor, const Value* sent) {
  const auto* sizes = sent == nullptr ? nullptr : std::get_if<Array>(sent);
  if (sizes == nullptr || sizes->size() > Numbers::most_axes) {
    throw bad_request(text("input ", as_sent(tensor), " has shape ", as_sent(sent), ", wanted a list of up to ",
                           Numbers::most_axes, " sizes"));
  }
  std::vector<std::int64_t> shape;
  for (const Value& size : *sizes) {
    const auto* whole = std::get_if<std::int64_t>(&size);
    if (whole == nullptr || *whole < 0) {
      throw bad_request(
          text("input ", as_sent(tensor), " has ", as_sent(&size), " in its shape, wanted whole numbers from 1"));
    }
    shape.push_back(*whole);
  }
  return shape;
}

void take_bytes(SentTensor& tensor, std::span<const std::byte> bytes) {
  if (product(tensor.shape, tensor.datatype->size) != bytes.size()) {
    throw bad_request(text("input ", as_sent(tensor.name), " has ", bytes.size(), " bytes of data, wanted ",
                           product_in_words(tensor.shape, tensor.datatype->size), " for ", tensor.datatype->name,
                           " of shape ", plainconv::shown(tensor.shape)));
  }
  if (tensor.datatype->kind == Kind::boolean &&
      std::ranges::any_of(bytes, [](std::byte byte) { return byte > std::byte{1}; })) {
    throw bad_request(text("input ", as_sent(tensor.name), " has a byte above 1 in its data, wanted 0 or 1 for BOOL"));
  }
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());   // NOLINT(*-reinterpret-cast)
  const bool is_aligned = (address & (tensor.datatype->size - 1)) == 0;  // a power of two
  if (is_aligned) {
    tensor.bytes = bytes;
  } else {
    tensor.own.assign(bytes.begin(), bytes.end());
    tensor.bytes = tensor.own;
  }
}

void take_numbers(SentTensor& tensor, const Value* sent, const std::optional<Numbers>& numbers) {
  if (!numbers) {
    throw bad_request(
        text("input ", as_sent(tensor.name), " has ", as_sent(sent), " as its data, wanted a list of numbers"));
  }
  if (!numbers->is_regular()) {
    throw bad_request(text("input ", as_sent(tensor.name),
                           " has lists of different lengths, or too many in each other, in its data"));
  }
  if (product(tensor.shape, 1) != numbers->size()) {
    throw bad_request(text("input ", as_sent(tensor.name), " has ", numbers->size(), " numbers, wanted ",
                           product_in_words(tensor.shape, 1), " for the shape ", plainconv::shown(tensor.shape)));
  }
  if (numbers->shape().size() != 1 && !std::ranges::equal(numbers->shape(), tensor.shape)) {
    throw bad_request(text("input ", as_sent(tensor.name), " has data of shape ", plainconv::shown(numbers->shape()),
                           ", wanted its shape ", plainconv::shown(tensor.shape), " or a flat list"));
  }
  tensor.own = numbers->bytes(tensor.name, *tensor.datatype);
  tensor.bytes = tensor.own;
}

}  // namespace plainconv::serve
