#include "bundle/json.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bundle/json_tree.hpp"
#include "text.hpp"

namespace plainconv::json {
namespace {

/// Takes nlohmann's events, and builds a value from them.
class Builder {
 public:
  bool null() { return add(Value(nullptr)); }
  bool boolean(bool value) { return add(Value(value)); }
  bool number_integer(std::int64_t value) { return add(Value(value)); }
  bool number_unsigned(std::uint64_t value) { return add(value_of(value)); }
  bool number_float(double value, const std::string& digits) { return add(value_of(value, digits)); }
  bool string(std::string& value) { return add(Value(std::move(value))); }
  static bool binary(std::vector<std::uint8_t>& /*none in JSON*/) { return false; }
  bool start_object(std::size_t /*unknown*/) { return start(Value(Object{})); }
  bool start_array(std::size_t /*unknown*/) { return start(Value(Array{})); }
  bool key(std::string& name) {
    tree_.key(std::move(name));
    return true;
  }
  bool end_array() {
    tree_.close();
    return true;
  }
  bool end_object() {
    tree_.check_keys();
    return end_array();
  }
  static bool parse_error(std::size_t at, const std::string& /*token*/, const nlohmann::json::exception& error) {
    constexpr int overflow = 406;
    throw SyntaxError(error.id == overflow ? "a number beyond float64" : text("wrong at byte ", at));
  }

  Value taken() { return tree_.taken(); }

 private:
  bool add(Value value) {
    tree_.add(std::move(value));
    return true;
  }
  bool start(Value empty) {
    if (tree_.levels().size() == most_levels) {
      throw SyntaxError(text("nested more than ", most_levels, " levels deep"));
    }
    tree_.open(std::move(empty));
    return true;
  }

  Tree tree_;
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

std::string json_text(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace plainconv::json
