// A JSON value that grows as a parser reads its text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/json.hpp"

namespace plainconv::json {

/// An integer as a value: beyond 64 bits its digits.
[[nodiscard]] Value value_of(std::uint64_t integer);

/// A number that a parser took for a float64, of these digits: an integer where they have neither point nor exponent.
[[nodiscard]] Value value_of(double number, const std::string& digits);

/// What is added goes into the object or array opened last, or is the whole.
class Tree {
 public:
  void add(Value value);
  /// `empty` is an object or an array.
  void open(Value empty) { open_.push_back(std::move(empty)); }
  /// Of the open object, for the value that follows.
  void key(std::string name);
  /// Throws SyntaxError where the open object has a key twice.
  void check_keys() const;
  /// Of a key that the open object has twice, what was there before the last goes.
  void keep_last_keys();
  void close();

  /// Those that are open, the outermost first.
  [[nodiscard]] const std::vector<Value>& levels() const noexcept { return open_; }
  /// The whole, once nothing is open.
  [[nodiscard]] Value taken() { return std::move(root_); }

 private:
  std::vector<Value> open_;
  Value root_;
};

}  // namespace plainconv::json
