// JSON as a manifest has it: in the order of the text, no key twice in one object, true and false no integers.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace plainconv::json {

/// Deeper than any manifest is nested, and far from where recursion hurts.
inline constexpr std::size_t most_levels = 500;

struct Value;
struct Member;
using Array = std::vector<Value>;
using Object = std::vector<Member>;

/// An integer beyond 64 bits: allowed in JSON, and no number that a manifest may have.
struct BigInteger {
  std::string digits;
};

struct Value : std::variant<std::nullptr_t, bool, std::int64_t, BigInteger, double, std::string, Array, Object> {
  using variant::variant;
};

struct Member {
  std::string key;
  Value value;
};

/// Why a text is not JSON, in a few words.
class SyntaxError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws SyntaxError for what is not JSON (RFC 8259), numbers that no float64 holds, and nesting beyond `most_levels`.
[[nodiscard]] Value parse(std::string_view text);

/// The member of an object; null where there is none, or `value` is no object.
[[nodiscard]] const Value* find(const Value& value, std::string_view key) noexcept;

/// As Python shows what it read: {'a': [1, None]}; at least `most` characters of it, where there are so many.
[[nodiscard]] std::string shown(const Value& value, std::size_t most);

/// "…" with quotes, as JSON has it; bytes that are no UTF-8 are replaced.
[[nodiscard]] std::string json_text(std::string_view text);

}  // namespace plainconv::json
