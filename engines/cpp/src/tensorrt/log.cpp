#include "tensorrt/log.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "text.hpp"

namespace plainconv {
namespace {

constexpr std::size_t most = 400;  // bytes of a message
constexpr std::string_view digits = "0123456789";
constexpr std::string_view of_names = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";

std::size_t end_of(std::string_view line, std::size_t from, std::string_view letters) {
  return std::min(line.find_first_not_of(letters, from), line.size());
}

/// Where "In function at file:line", which begins at `from`, ends; nothing where it is something else.
std::optional<std::size_t> end_of_place(std::string_view line, std::size_t from) {
  constexpr std::string_view in = "In ";
  constexpr std::string_view at = " at ";
  const std::size_t name = from + in.size();
  const std::size_t name_ends = end_of(line, name, of_names);
  if (name_ends == name || line.substr(name_ends, at.size()) != at) {
    return std::nullopt;
  }
  const std::size_t file = name_ends + at.size();
  const std::size_t file_ends = std::min(line.find(' ', file), line.size());
  for (std::size_t colon = file_ends; colon-- > file + 1;) {
    if (line[colon] == ':' && end_of(line, colon + 1, digits) > colon + 1) {
      return end_of(line, colon + 1, digits);
    }
  }
  return std::nullopt;
}

std::string without_places(std::string line) {
  for (std::size_t from = 0; (from = line.find("In ", from)) != std::string::npos;) {
    const bool is_word = from == 0 || of_names.find(line[from - 1]) == std::string_view::npos;
    const auto end = is_word ? end_of_place(line, from) : std::nullopt;
    if (!end) {
      ++from;
      continue;
    }
    std::size_t begin = from;
    while (begin > 0 && line[begin - 1] == ' ') {
      --begin;
    }
    begin -= begin > 0 && line[begin - 1] == '.' ? 1 : 0;
    line.erase(begin, *end - begin);
    from = begin;
  }
  return line;
}

/// What is in the brackets of "Error Code 2: Internal Error (…)"; all of it, where it is something else.
std::string inside(const std::string& line) {
  constexpr std::string_view code = "Error Code ";
  for (std::size_t at = 0; (at = line.find(code, at)) != std::string::npos; ++at) {
    const std::size_t number = at + code.size();
    const std::size_t ends = end_of(line, number, digits);
    const std::size_t open = line.find('(', ends);
    if (ends > number && line.compare(ends, 2, ": ") == 0 && open != std::string::npos) {
      std::string found = line.substr(open + 1);
      if (found.ends_with(')')) {
        found.pop_back();
      }
      return found;
    }
  }
  return line;
}

/// Without "[where it was] ".
std::string without_origin(const std::string& line) {
  const std::size_t close = line.find("] ");
  return line.starts_with('[') && close == line.find(']') && close != std::string::npos ? line.substr(close + 2) : line;
}

}  // namespace

std::string first_error(const std::vector<std::string>& errors) {
  const auto is_telling = [](const std::string& error) { return error.find("catchCudaError") == std::string::npos; };
  auto found = std::ranges::find_if(errors, is_telling);
  found = found == errors.end() ? errors.begin() : found;
  if (found == errors.end()) {
    return "it does not say why (TensorRT talks to the first logger of a process, which was another)";
  }
  const std::string line = one_line(without_origin(inside(without_places(one_line(*found, found->size())))), most);
  const auto first = line.find_first_not_of(". ");
  return first == std::string::npos ? "" : line.substr(first, line.find_last_not_of(". ") - first + 1);
}

std::string why_not_loaded(const std::vector<std::string>& errors) {
  constexpr std::array<std::string_view, 4> no_memory = {"out of memory", "outofmemory", "bad_alloc",
                                                         "could not be allocated"};
  const std::string all = lower(joined(errors, " "));
  if (std::ranges::any_of(no_memory, [&](std::string_view words) { return all.find(words) != std::string::npos; })) {
    return text("out of memory (", first_error(errors), "); free memory of the GPU");
  }
  return text(first_error(errors), "; build it again with `exporter build`");
}

}  // namespace plainconv
