// Numbers between JSON and memory: each is rounded once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "datatypes.hpp"
#include "plainconv/bundle.hpp"

namespace plainconv::serve {

/// Lists in lists of numbers as JSON had them, flat: eight bytes each, whatever the text was.
class Numbers {
 public:
  static constexpr std::size_t most_axes = 32;

  void start_list();
  void end_list();
  void add(bool value);
  void add(std::int64_t value);
  void add(std::uint64_t value);  // beyond the largest int64
  void add(double value);
  void add_other();  // a text, a null or an object

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// False where lists side by side differ in length or depth, or lie too deep in each other.
  [[nodiscard]] bool is_regular() const noexcept { return regular_; }
  /// The lists' lengths, the outermost first; of regular ones.
  [[nodiscard]] std::span<const std::int64_t> shape() const noexcept { return shape_; }

  /// The bytes in `datatype`. Throws Refused, naming the input `tensor`, where that would change more than the rounding
  /// of a fraction.
  [[nodiscard]] std::vector<std::byte> bytes(std::string_view tensor, const Datatype& datatype) const;

 private:
  void count();
  void push(std::int64_t value);
  void push(double value);
  template <class F>
  [[nodiscard]] std::vector<std::byte> filled(F convert) const;

  std::vector<std::int64_t> shape_;  // -1: not known yet
  std::vector<std::int64_t> open_;   // how many there are so far in each of the open lists
  std::size_t leaf_ = 0;             // how deep numbers lie; 0: not known yet
  std::size_t size_ = 0;
  bool regular_ = true;

  std::vector<std::int64_t> whole_;  // the numbers, while all are whole
  std::vector<double> fractions_;    // the numbers, once one is not
  bool has_truth_ = false;
  bool has_number_ = false;
  bool has_fraction_ = false;
  bool has_huge_ = false;  // a whole number beyond int64
  bool has_other_ = false;
};

/// [1, 2.5, null]: NaN and infinity, which JSON has not, are null.
[[nodiscard]] std::string json_of(DType dtype, std::span<const std::byte> bytes);

}  // namespace plainconv::serve
