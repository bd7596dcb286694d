#include "numbers.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>

#include "halves.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

/// A whole number is rounded as such: by way of float64 it would be rounded twice.
float rounded_to_float(double value) noexcept { return float_of(value); }
float rounded_to_float(std::int64_t value) noexcept { return static_cast<float>(value); }

}  // namespace

void Numbers::start_list() {
  if (!open_.empty()) {
    ++open_.back();
  }
  open_.push_back(0);
  if (open_.size() > most_axes || (leaf_ != 0 && open_.size() > leaf_)) {
    regular_ = false;
  } else if (open_.size() > shape_.size()) {
    shape_.push_back(-1);
  }
}

void Numbers::end_list() {
  if (open_.size() <= shape_.size()) {
    std::int64_t& known = shape_[open_.size() - 1];
    regular_ = regular_ && (known == -1 || known == open_.back());
    known = open_.back();
  }
  open_.pop_back();
}

void Numbers::count() {
  ++size_;
  ++open_.back();
  if (leaf_ == 0) {
    leaf_ = open_.size();
  }
  regular_ = regular_ && leaf_ == open_.size() && shape_.size() == leaf_;
}

void Numbers::push(std::int64_t value) {
  count();
  if (fractions_.empty()) {
    whole_.push_back(value);
  } else {
    fractions_.push_back(static_cast<double>(value));
  }
}

void Numbers::push(double value) {
  count();
  if (!whole_.empty()) {
    fractions_.assign(whole_.begin(), whole_.end());
    std::vector<std::int64_t>().swap(whole_);
  }
  fractions_.push_back(value);
}

void Numbers::add(bool value) {
  has_truth_ = true;
  push(static_cast<std::int64_t>(value));
}

void Numbers::add(std::int64_t value) {
  has_number_ = true;
  push(value);
}

void Numbers::add(std::uint64_t value) {
  has_number_ = has_huge_ = true;
  push(static_cast<double>(value));
}

void Numbers::add(double value) {
  has_number_ = has_fraction_ = true;
  push(value);
}

void Numbers::add_other() {
  has_other_ = true;
  count();
}

template <class F>
std::vector<std::byte> Numbers::filled(F convert) const {
  using T = decltype(convert(0.0));
  std::vector<std::byte> bytes(size_ * sizeof(T));
  std::size_t at = 0;
  const auto put = [&](T value) {
    std::memcpy(bytes.data() + at, &value, sizeof(T));
    at += sizeof(T);
  };
  for (const std::int64_t value : whole_) {
    put(convert(value));
  }
  for (const double value : fractions_) {
    put(convert(value));
  }
  return bytes;
}

std::vector<std::byte> Numbers::bytes(std::string_view tensor, const Datatype& datatype) const {
  const auto refuse_others = [&](bool has_others, std::string_view wanted) {
    if (has_others || has_other_) {
      throw bad_request(text("input ", as_sent(tensor), " has other data than ", wanted, ", as its datatype ",
                             datatype.name, " wants"));
    }
  };
  const auto beyond = [&] {
    return bad_request(text("input ", as_sent(tensor), " has a number beyond ", datatype.name, " in its data"));
  };
  if (datatype.kind == Kind::boolean) {
    refuse_others(has_number_, "true and false");
    return filled([](auto value) { return static_cast<std::uint8_t>(value); });
  }
  if (datatype.kind == Kind::whole) {
    refuse_others(has_truth_ || has_fraction_, "whole numbers");
    const auto fits = [&](std::int64_t value) {
      return value < 0 ? value >= datatype.least : static_cast<std::uint64_t>(value) <= datatype.most;
    };
    const bool may_be_huge = datatype.most > static_cast<std::uint64_t>(INT64_MAX);
    if ((has_huge_ && !may_be_huge) || !std::ranges::all_of(whole_, fits)) {
      throw beyond();
    }
    switch (datatype.size) {  // the low bytes are the number, in the two's complement
      case 1: return filled([](auto value) { return static_cast<std::uint8_t>(value); });
      case 2: return filled([](auto value) { return static_cast<std::uint16_t>(value); });
      case 4: return filled([](auto value) { return static_cast<std::uint32_t>(value); });
      default: return filled([](auto value) { return static_cast<std::uint64_t>(value); });
    }
  }
  refuse_others(has_truth_, "numbers");
  bool is_finite = true;
  const auto finite = [&](auto rounded) {
    is_finite = is_finite && std::isfinite(rounded);
    return rounded;
  };
  std::vector<std::byte> all;
  if (datatype.dtype == DType::float32) {
    all = filled([&](auto value) { return finite(rounded_to_float(value)); });
  } else if (datatype.dtype == DType::float64) {
    all = filled([&](auto value) { return finite(static_cast<double>(value)); });
  } else {
    const bool is_half = datatype.dtype == DType::float16;
    all = filled([&](auto value) {
      const std::uint16_t bits = is_half ? half_of(static_cast<double>(value)) : bfloat_of(static_cast<double>(value));
      (void)finite(is_half ? float_of_half(bits) : float_of_bfloat(bits));
      return bits;
    });
  }
  if (!is_finite) {
    throw beyond();
  }
  return all;
}

std::string json_of(DType dtype, std::span<const std::byte> bytes) {
  std::string all = "[";
  const auto append = [&](auto value) {
    std::array<char, 32> digits{};
    const char* end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    const std::string_view number(digits.data(), end);
    all += number;
    if constexpr (std::is_floating_point_v<decltype(value)>) {
      if (number.find_first_of(".e") == std::string_view::npos) {
        all += ".0";
      }
    }
  };
  const auto each = [&]<class T>(T /*type*/, auto put) {
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(T)) {
      T value{};
      std::memcpy(&value, bytes.data() + at, sizeof(T));
      all += at == 0 ? "" : ",";
      put(value);
    }
  };
  const auto fraction = [&](auto value) {
    if (std::isfinite(value)) {
      append(value);
    } else {
      all += "null";
    }
  };
  switch (dtype) {
    case DType::bool_: each(std::uint8_t{}, [&](std::uint8_t value) { all += value != 0 ? "true" : "false"; }); break;
    case DType::int8: each(std::int8_t{}, [&](std::int8_t value) { append(int{value}); }); break;
    case DType::uint8: each(std::uint8_t{}, [&](std::uint8_t value) { append(int{value}); }); break;
    case DType::int32: each(std::int32_t{}, append); break;
    case DType::int64: each(std::int64_t{}, append); break;
    case DType::float16: each(std::uint16_t{}, [&](std::uint16_t bits) { fraction(float_of_half(bits)); }); break;
    case DType::bfloat16: each(std::uint16_t{}, [&](std::uint16_t bits) { fraction(float_of_bfloat(bits)); }); break;
    case DType::float32: each(float{}, fraction); break;
    case DType::float64: each(double{}, fraction); break;
    case DType::float8_e4m3fn: break;  // between parts only
  }
  return all + "]";
}

}  // namespace plainconv::serve
