// Text as the messages have it. What is quoted looks as it does in Python's messages: they are the same.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace plainconv {

namespace detail {

inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, char part) { text += part; }
template <class T>
requires(std::is_integral_v<T> && !std::is_same_v<T, char>) void append(std::string& text, T part) {
  text += std::to_string(part);
}

}  // namespace detail

/// All of it, one after the other.
template <class... Parts>
[[nodiscard]] std::string text(const Parts&... parts) {
  std::string all;
  (detail::append(all, parts), ...);
  return all;
}

/// 'quoted', with what cannot be printed escaped.
[[nodiscard]] std::string repr(std::string_view value);

/// The shortest decimal that gives the same number back: 0.1, 1e-07, 3.0.
[[nodiscard]] std::string decimal(double value);

/// ['a', 'b'].
[[nodiscard]] std::string listed(std::span<const std::string> values);

/// [1, 'batch', 3].
[[nodiscard]] std::string listed(std::span<const std::variant<std::int64_t, std::string>> shape);

/// "[1, batch, 3]": as a spec is shown.
[[nodiscard]] std::string shown(std::span<const std::variant<std::int64_t, std::string>> shape);
[[nodiscard]] std::string shown(std::span<const std::int64_t> shape);

[[nodiscard]] std::string joined(std::span<const std::string> values, std::string_view between);

/// In lower case.
[[nodiscard]] std::string lower(std::string_view value);

/// The first `most` characters of UTF-8.
[[nodiscard]] std::string_view cut(std::string_view value, std::size_t most);

/// What someone else says, on one line of at most `most` bytes.
[[nodiscard]] std::string one_line(std::string_view value, std::size_t most = 300);

/// `value` on one line: control characters as \x0a.
[[nodiscard]] std::string escaped(std::string_view value);

/// `value` without what a terminal might act on.
[[nodiscard]] std::string printable(std::string_view value);

}  // namespace plainconv
