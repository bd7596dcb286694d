#include "auth.hpp"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <system_error>

#include "bundle/sha256.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::size_t least_token = 16;
constexpr std::size_t most_token = 4096;
constexpr std::string_view scheme = "bearer ";

std::string_view stripped(std::string_view value) noexcept {
  constexpr std::string_view spaces = " \t\r\n\v\f";
  const auto first = value.find_first_not_of(spaces);
  return first == std::string_view::npos ? "" : value.substr(first, value.find_last_not_of(spaces) + 1 - first);
}

bool same(std::string_view a, std::string_view b) noexcept {  // both of one length
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  return difference == 0;
}

}  // namespace

Bearer::Bearer(std::string_view token) : digest_(token.empty() ? "" : sha256_of(token)) {}

void Bearer::check(std::optional<std::string_view> authorization) const {
  if (digest_.empty()) {
    return;
  }
  const std::string_view given = authorization.value_or("");
  const bool is_bearer = lower(given.substr(0, scheme.size())) == scheme;
  const std::string_view token = given.substr(std::min(given.size(), scheme.size()));
  const bool is_right = same(sha256_of(stripped(token)), digest_);
  if (!is_bearer || !is_right) {
    throw unauthorized("the bearer token is missing or wrong; send it as Authorization: Bearer TOKEN");
  }
}

std::string token_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(2 * most_token, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.is_open() || file.bad()) {
    throw Error(text(path, ": the token cannot be read (", std::generic_category().message(errno), ")"));
  }
  const std::string_view token = stripped(std::string_view(bytes).substr(0, static_cast<std::size_t>(file.gcount())));
  const bool is_visible = std::ranges::all_of(token, [](char c) { return c > ' ' && c <= '~'; });
  if (!is_visible || token.size() < least_token || token.size() > most_token) {
    throw Error(text(path, " holds no token; wanted 16 to 4096 visible ASCII characters on one line"));
  }
  return std::string(token);
}

}  // namespace plainconv::serve
