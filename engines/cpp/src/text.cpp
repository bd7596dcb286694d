#include "text.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <clocale>
#include <cmath>
#include <cstdlib>
#include <cwctype>
#include <memory>
#include <optional>

namespace plainconv {
namespace {

constexpr std::string_view hexadecimal = "0123456789abcdef";

/// What Unicode has beyond ASCII that nothing is drawn for, or that acts on what is: spaces but for ' ', controls,
/// formats, private use. (Python's `repr` also escapes what its version of Unicode does not know yet.)
constexpr std::array<std::pair<char32_t, char32_t>, 27> unprintable = {{
    {0x80, 0xa0},       {0xad, 0xad},         {0x600, 0x605},     {0x61c, 0x61c},     {0x6dd, 0x6dd},
    {0x70f, 0x70f},     {0x890, 0x891},       {0x8e2, 0x8e2},     {0x1680, 0x1680},   {0x180e, 0x180e},
    {0x2000, 0x200f},   {0x2028, 0x202f},     {0x205f, 0x2064},   {0x2066, 0x206f},   {0x3000, 0x3000},
    {0xe000, 0xf8ff},   {0xfeff, 0xfeff},     {0xfff9, 0xfffb},   {0x110bd, 0x110bd}, {0x110cd, 0x110cd},
    {0x13430, 0x13438}, {0x1bca0, 0x1bca3},   {0x1d173, 0x1d17a}, {0xe0001, 0xe0001}, {0xe0020, 0xe007f},
    {0xf0000, 0xffffd}, {0x100000, 0x10fffd},
}};

bool is_printable(char32_t point) {
  if (point < 0x80) {
    return point >= 0x20 && point != 0x7f;
  }
  return std::ranges::none_of(unprintable,
                              [&](const auto& range) { return range.first <= point && point <= range.second; });
}

struct Character {
  char32_t point;
  std::size_t size;  // bytes of UTF-8
};

/// The character at the front of `value`, which is not empty; nothing where that is no UTF-8.
std::optional<Character> front_of(std::string_view value) {
  const auto first = static_cast<unsigned char>(value.front());
  const auto size = static_cast<std::size_t>(std::countl_one(first));
  if (size == 0) {
    return Character{first, 1};
  }
  if (size == 1 || size > 4 || value.size() < size) {
    return std::nullopt;
  }
  char32_t point = first & (0x7fU >> size);
  for (const char c : value.substr(1, size - 1)) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xc0U) != 0x80U) {
      return std::nullopt;
    }
    point = (point << 6U) | (byte & 0x3fU);
  }
  return Character{point, size};
}

void append_escaped(std::string& all, char32_t point) {
  const unsigned digits = point < 0x100 ? 2 : point < 0x10000 ? 4 : 8;
  all += '\\';
  all += digits == 2 ? 'x' : digits == 4 ? 'u' : 'U';
  for (unsigned digit = digits; digit-- > 0;) {
    all += hexadecimal[(point >> (4 * digit)) & 15U];
  }
}

void append_utf8(std::string& all, char32_t point) {
  if (point < 0x80) {
    all += static_cast<char>(point);
    return;
  }
  const unsigned more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
  all += static_cast<char>((0xff00U >> (more + 1)) | (point >> (6 * more)));
  for (unsigned left = more; left-- > 0;) {
    all += static_cast<char>(0x80U | ((point >> (6 * left)) & 0x3fU));
  }
}

template <class T, class F>
std::string bracketed(std::span<const T> values, F each) {
  std::string all = "[";
  for (const T& value : values) {
    if (all.size() > 1) {
      all += ", ";
    }
    all += each(value);
  }
  return all + "]";
}

}  // namespace

std::string repr(std::string_view value) {
  const bool has_single = value.find('\'') != std::string_view::npos;
  const char quote = has_single && value.find('"') == std::string_view::npos ? '"' : '\'';
  std::string all(1, quote);
  while (!value.empty()) {
    const auto character = front_of(value);
    const char c = value.front();
    const std::size_t size = character ? character->size : 1;
    if (c == quote || c == '\\') {
      all += '\\';
      all += c;
    } else if (c == '\n') {
      all += "\\n";
    } else if (c == '\r') {
      all += "\\r";
    } else if (c == '\t') {
      all += "\\t";
    } else if (!character || !is_printable(character->point)) {
      append_escaped(all, character ? character->point : static_cast<unsigned char>(c));
    } else {
      all += value.substr(0, size);
    }
    value.remove_prefix(size);
  }
  return all + quote;
}

std::string escaped(std::string_view value) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string all;
  for (const char c : value) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20 || code == 0x7f) {
      all += text("\\x", digits[code >> 4U], digits[code & 0xfU]);
    } else {
      all += c;
    }
  }
  return all;
}

std::string decimal(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value < 0 ? "-inf" : "inf";
  }
  std::array<char, 64> digits{};
  const double size = std::fabs(value);
  const auto form =
      size != 0 && (size < 1e-4 || size >= 1e16) ? std::chars_format::scientific : std::chars_format::fixed;
  char* const end = std::to_chars(digits.data(), digits.data() + digits.size(), value, form).ptr;
  std::string all(digits.data(), end);
  return all.find_first_of(".e") == std::string::npos ? all + ".0" : all;
}

std::string listed(std::span<const std::string> values) {
  return bracketed(values, [](const std::string& value) { return repr(value); });
}

std::string listed(std::span<const std::variant<std::int64_t, std::string>> shape) {
  return bracketed(shape, [](const auto& axis) {
    const auto* name = std::get_if<std::string>(&axis);
    return name != nullptr ? repr(*name) : std::to_string(std::get<std::int64_t>(axis));
  });
}

std::string shown(std::span<const std::variant<std::int64_t, std::string>> shape) {
  return bracketed(shape, [](const auto& axis) {
    const auto* name = std::get_if<std::string>(&axis);
    return name != nullptr ? *name : std::to_string(std::get<std::int64_t>(axis));
  });
}

std::string shown(std::span<const std::int64_t> shape) {
  return bracketed(shape, [](std::int64_t size) { return std::to_string(size); });
}

std::string joined(std::span<const std::string> values, std::string_view between) {
  std::string all;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i != 0) {
      all += between;
    }
    all += values[i];
  }
  return all;
}

std::string lower(std::string_view value) {
  static const locale_t unicode = ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);  // for as long as the program runs
  std::string all;
  while (!value.empty()) {
    const auto character = front_of(value);
    if (!character) {
      all += value.front();
    } else if (character->point < 0x80 || unicode == nullptr) {
      const char c = value.front();
      all += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
      all += value.substr(1, character->size - 1);
    } else {
      append_utf8(all, ::towlower_l(static_cast<wint_t>(character->point), unicode));
    }
    value.remove_prefix(character ? character->size : 1);
  }
  return all;
}

std::string_view cut(std::string_view value, std::size_t most) {
  std::size_t seen = 0;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if ((static_cast<unsigned char>(value[i]) & 0xC0U) != 0x80U && ++seen > most) {
      return value.substr(0, i);
    }
  }
  return value;
}

std::string one_line(std::string_view value, std::size_t most) {
  std::string all;
  for (const char c : value) {
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    if (!space) {
      all += c;
    } else if (!all.empty() && all.back() != ' ') {
      all += ' ';
    }
  }
  while (!all.empty() && (all.back() == ' ' || all.back() == '.')) {
    all.pop_back();
  }
  return all.size() <= most ? all : text(cut(all, most - 1), "…");
}

std::string printable(std::string_view value) {
  std::string all;
  while (!value.empty()) {
    const auto character = front_of(value);
    const std::size_t size = character ? character->size : 1;
    if (!character) {
      all += '?';
    } else if (is_printable(character->point)) {
      all += value.substr(0, size);
    } else {
      all += ' ';
    }
    value.remove_prefix(size);
  }
  return all;
}

}  // namespace plainconv
