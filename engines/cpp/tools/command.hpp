// What the tools have in common: exit codes, one line for what is wrong, and words that are numbers.
#pragma once

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace plainconv::tools {

inline constexpr int done = 0;
inline constexpr int failed = 1;     // requests were given up, or out of memory: the input may be right
inline constexpr int bad_input = 2;  // one line: found, wanted, remedy
inline constexpr int internal = 70;  // EX_SOFTWARE: a fault of ours

/// A tool: its name, what wants less memory, and what it does with its words, which returns its exit code.
struct Command {
  std::string_view name;
  std::string_view smaller;
  std::function<int(std::span<const std::string> given)> run;
};

/// The exit code of a tool. What it throws becomes one line.
[[nodiscard]] int run(const Command& command, int argc, char** argv) noexcept;

/// One line on stderr, whole, from any thread.
void say(std::string_view line);

/// The number that all of `given` is; nothing where it is none of a T.
template <class T>
[[nodiscard]] std::optional<T> number_in(std::string_view given) {
  T value = 0;
  const char* last = given.data() + given.size();
  const auto [end, error] = std::from_chars(given.data(), last, value);
  return error == std::errc() && end == last ? std::optional(value) : std::nullopt;
}

/// `number(each)` of what commas separate in `given`.
template <class F>
[[nodiscard]] std::vector<int> numbers_in(std::string_view given, F number) {
  std::vector<int> numbers;
  for (std::size_t start = 0; start <= given.size();) {
    const std::size_t end = std::min(given.find(',', start), given.size());
    numbers.push_back(number(given.substr(start, end - start)));
    start = end + 1;
  }
  return numbers;
}

}  // namespace plainconv::tools
