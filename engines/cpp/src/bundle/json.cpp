#include "bundle/json.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "text.hpp"

namespace plainconv::json {
namespace {

/// Takes nlohmann's events, and builds a value from them.
class Builder {
 public:
  bool null() { return put(Value(nullptr)); }
  bool boolean(bool value) { return put(Value(value)); }
  bool number_integer(std::int64_t value) { return put(Value(value)); }
  bool number_unsigned(std::uint64_t value) {
    if (value > static_cast<std::uint64_t>(INT64_MAX)) {
      return put(Value(BigInteger{std::to_string(value)}));
    }
    return put(Value(static_cast<std::int64_t>(value)));
  }
  bool number_float(double value, const std::string& digits) {
    const bool is_integer = digits.find_first_of(".eE") == std::string::npos;
    return put(is_integer ? Value(BigInteger{digits}) : Value(value));
  }
  bool string(std::string& value) { return put(Value(std::move(value))); }
  static bool binary(std::vector<std::uint8_t>& /*none in JSON*/) { return false; }
  bool start_object(std::size_t /*unknown*/) { return start(Value(Object{})); }
  bool start_array(std::size_t /*unknown*/) { return start(Value(Array{})); }
  bool end_array() { return end(); }
  bool key(std::string& name) {
    std::get<Object>(open_.back()).push_back({std::move(name), Value(nullptr)});
    return true;
  }
  bool end_object() {
    std::unordered_set<std::string_view> seen;
    for (const Member& member : std::get<Object>(open_.back())) {
      if (!seen.insert(member.key).second) {
        throw SyntaxError("a key appears twice in one object");
      }
    }
    return end();
  }
  static bool parse_error(std::size_t at, const std::string& /*token*/, const nlohmann::json::exception& error) {
    constexpr int overflow = 406;
    throw SyntaxError(error.id == overflow ? "a number beyond float64" : text("wrong at byte ", at));
  }

  Value taken() { return std::move(root_); }

 private:
  bool start(Value value) {
    if (open_.size() == most_levels) {
      throw SyntaxError(text("nested more than ", most_levels, " levels deep"));
    }
    open_.push_back(std::move(value));
    return true;
  }
  bool end() {
    Value value = std::move(open_.back());
    open_.pop_back();
    return put(std::move(value));
  }
  bool put(Value value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (auto* array = std::get_if<Array>(&open_.back())) {
      array->push_back(std::move(value));
    } else {
      std::get<Object>(open_.back()).back().value = std::move(value);
    }
    return true;
  }

  std::vector<Value> open_;
  Value root_;
};

void show(std::string& all, const Value& value, std::size_t most);

template <class Items, class F>
void show_items(std::string& all, const Items& items, char open, char close, std::size_t most, F each) {
  all += open;
  for (std::size_t i = 0; i < items.size() && all.size() < most; ++i) {
    all += i == 0 ? "" : ", ";
    each(items[i]);
  }
  all += close;
}

void show(std::string& all, const Value& value, std::size_t most) {
  if (std::holds_alternative<std::nullptr_t>(value)) {
    all += "None";
  } else if (const auto* flag = std::get_if<bool>(&value)) {
    all += *flag ? "True" : "False";
  } else if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    all += std::to_string(*integer);
  } else if (const auto* big = std::get_if<BigInteger>(&value)) {
    all += big->digits;
  } else if (const auto* number = std::get_if<double>(&value)) {
    all += decimal(*number);
  } else if (const auto* string = std::get_if<std::string>(&value)) {
    all += repr(*string);
  } else if (const auto* array = std::get_if<Array>(&value)) {
    show_items(all, *array, '[', ']', most, [&](const Value& item) { show(all, item, most); });
  } else if (const auto* object = std::get_if<Object>(&value)) {
    show_items(all, *object, '{', '}', most, [&](const Member& member) {
      all += repr(member.key) + ": ";
      show(all, member.value, most);
    });
  }
}

}  // namespace

Value parse(std::string_view text) {
  constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
  if (text.starts_with(byte_order_mark)) {  // which nlohmann passes over, as it takes a NUL for the end
    throw SyntaxError("it begins with a byte order mark");
  }
  if (const auto at = text.find('\0'); at != std::string_view::npos) {
    throw SyntaxError(plainconv::text("wrong at byte ", at + 1));
  }
  Builder builder;
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.taken();
}

const Value* find(const Value& value, std::string_view key) noexcept {
  const auto* object = std::get_if<Object>(&value);
  if (object == nullptr) {
    return nullptr;
  }
  const auto found = std::ranges::find(*object, key, &Member::key);
  return found == object->end() ? nullptr : &found->value;
}

std::string shown(const Value& value, std::size_t most) {
  std::string all;
  show(all, value, 4 * most);  // bytes of as many characters
  return all;
}

}  // namespace plainconv::json
