#include "document.hpp"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "bundle/json_tree.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

using json::Array;
using json::Object;
using json::SyntaxError;
using json::Value;

/// Takes nlohmann's events, and builds a document from them.
class Builder {
 public:
  bool null() { return is_in_data() ? other() : put(Value(nullptr)); }
  bool boolean(bool value) { return is_in_data() ? number(value) : put(Value(value)); }
  bool number_integer(std::int64_t value) { return is_in_data() ? number(value) : put(Value(value)); }
  bool number_unsigned(std::uint64_t value) {
    if (value <= static_cast<std::uint64_t>(INT64_MAX)) {
      return number_integer(static_cast<std::int64_t>(value));
    }
    return is_in_data() ? number(value) : put(json::value_of(value));
  }
  bool number_float(double value, const std::string& digits) {
    return is_in_data() ? number(value) : put(json::value_of(value, digits));
  }
  bool string(std::string& value) { return is_in_data() ? other() : put(Value(std::move(value))); }
  static bool binary(std::vector<std::uint8_t>& /*none in JSON*/) { return false; }
  bool start_object(std::size_t /*unknown*/) {
    if (!is_in_data()) {
      return start(Value(Object{}));
    }
    deepen();
    other();
    ++passed_;
    return true;
  }
  bool start_array(std::size_t /*unknown*/) {
    if (is_data()) {
      const std::size_t index = std::get<Array>(tree_.levels()[1]).size();
      document_.data.resize(index + 1);
      numbers_ = std::addressof(document_.data.back().emplace());
    }
    if (!is_in_data()) {
      return start(Value(Array{}));
    }
    deepen();
    if (passed_ == 0) {
      numbers_->start_list();
    } else {
      ++passed_;
    }
    return true;
  }
  bool end_array() {
    if (!is_in_data()) {
      return end();
    }
    --levels_;
    if (passed_ != 0) {
      --passed_;
      return true;
    }
    numbers_->end_list();
    if (levels_ == tree_.levels().size()) {
      numbers_ = nullptr;
      return put(Value(Array{}));
    }
    return true;
  }
  bool key(std::string& name) {
    if (is_in_data()) {
      return true;
    }
    if (tree_.levels().size() == 1 && name == "inputs") {  // the last of them counts
      document_.data.clear();
    }
    tree_.key(std::move(name));
    if (is_data()) {
      const std::size_t index = std::get<Array>(tree_.levels()[1]).size();
      document_.data.resize(std::min(document_.data.size(), index));
    }
    return true;
  }
  bool end_object() {
    if (is_in_data()) {
      --levels_;
      --passed_;
      return true;
    }
    tree_.keep_last_keys();
    return end();
  }
  static bool parse_error(std::size_t at, const std::string& /*token*/, const nlohmann::json::exception& error) {
    constexpr int overflow = 406;
    throw SyntaxError(text(error.id == overflow ? "a number beyond float64" : "wrong", " at byte ", at));
  }

  Document taken() {
    document_.root = tree_.taken();
    return std::move(document_);
  }

 private:
  [[nodiscard]] bool is_in_data() const noexcept { return numbers_ != nullptr; }

  /// Whether the value that begins is root.inputs[i].data.
  [[nodiscard]] bool is_data() const {
    const auto& open = tree_.levels();
    if (is_in_data() || open.size() != 3) {
      return false;
    }
    const auto* root = std::get_if<Object>(open.data());
    const auto* tensor = std::get_if<Object>(&open[2]);
    return root != nullptr && tensor != nullptr && std::holds_alternative<Array>(open[1]) &&
           root->back().key == "inputs" && tensor->back().key == "data";
  }

  template <class T>
  bool number(T value) {
    if (passed_ == 0) {
      numbers_->add(value);
    }
    return true;
  }
  bool other() {
    if (passed_ == 0) {
      numbers_->add_other();
    }
    return true;
  }
  void deepen() {
    if (levels_ == json::most_levels) {
      throw SyntaxError(text("nested more than ", json::most_levels, " levels deep"));
    }
    ++levels_;
  }
  bool start(Value value) {
    deepen();
    tree_.open(std::move(value));
    return true;
  }
  bool end() {
    --levels_;
    count();
    tree_.close();
    return true;
  }
  bool put(Value value) {
    count();
    tree_.add(std::move(value));
    return true;
  }
  void count() {
    if (++values_ > most_values) {
      throw SyntaxError(text("more than ", most_values, " values beside its numbers"));
    }
  }

  json::Tree tree_;
  Document document_;
  Numbers* numbers_ = nullptr;  // of the data that is being read
  std::size_t levels_ = 0;      // that are open, those within data as well
  std::size_t passed_ = 0;      // that are open within an object in data, which is passed over
  std::size_t values_ = 0;
};

}  // namespace

Document document_of(std::string_view text) {
  // The parser would take the one for nothing, and the other for the end.
  if (const auto at = text.starts_with("\xEF\xBB\xBF") ? 0 : text.find('\0'); at != std::string_view::npos) {
    throw SyntaxError(plainconv::text("wrong at byte ", at + 1));
  }
  Builder builder;
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.taken();
}

}  // namespace plainconv::serve
