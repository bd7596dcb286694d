#include "bundle/json_tree.hpp"

#include <string_view>
#include <unordered_set>
#include <utility>

namespace plainconv::json {

Value value_of(std::uint64_t integer) {
  if (integer > static_cast<std::uint64_t>(INT64_MAX)) {
    return BigInteger{std::to_string(integer)};
  }
  return static_cast<std::int64_t>(integer);
}

Value value_of(double number, const std::string& digits) {
  const bool is_integer = digits.find_first_of(".eE") == std::string::npos;
  return is_integer ? Value(BigInteger{digits}) : Value(number);
}

void Tree::add(Value value) {
  if (open_.empty()) {
    root_ = std::move(value);
  } else if (auto* array = std::get_if<Array>(&open_.back())) {
    array->push_back(std::move(value));
  } else {
    std::get<Object>(open_.back()).back().value = std::move(value);
  }
}

void Tree::key(std::string name) { std::get<Object>(open_.back()).push_back({std::move(name), Value(nullptr)}); }

void Tree::check_keys() const {
  std::unordered_set<std::string_view> seen;
  for (const Member& member : std::get<Object>(open_.back())) {
    if (!seen.insert(member.key).second) {
      throw SyntaxError("a key appears twice in one object");
    }
  }
}

void Tree::keep_last_keys() {
  auto& members = std::get<Object>(open_.back());
  std::unordered_set<std::string_view> seen;
  std::vector<bool> is_last(members.size());
  for (std::size_t i = members.size(); i-- > 0;) {
    is_last[i] = seen.insert(members[i].key).second;
  }
  if (seen.size() != members.size()) {
    Object kept;
    for (std::size_t i = 0; i < members.size(); ++i) {
      if (is_last[i]) {
        kept.push_back(std::move(members[i]));
      }
    }
    members = std::move(kept);
  }
}

void Tree::close() {
  Value value = std::move(open_.back());
  open_.pop_back();
  add(std::move(value));
}

}  // namespace plainconv::json
