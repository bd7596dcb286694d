// What the rules give, and what they ask of any list.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace plainconv {

/// What the manifest says and may not say, a line each.
using Problems = std::vector<std::string>;

/// Whether `values`, as `key` sees them, are all different.
template <class Values, class Key>
bool all_different(const Values& values, Key key) {
  std::set<std::string> seen;
  return std::ranges::all_of(values, [&](const auto& value) { return seen.insert(std::string(key(value))).second; });
}

}  // namespace plainconv
