#include "refusals.hpp"

#include <array>
#include <charconv>
#include <new>

#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::size_t most_shown = 80;

std::string shortened(const std::string& all) {
  const std::string_view start = cut(all, most_shown);
  return start.size() == all.size() ? all : text(start, "…");
}

}  // namespace

Refused refusal_of(const std::exception& error, const std::function<void(const std::string&)>& complain) {
  if (const auto* refused = dynamic_cast<const Refused*>(&error)) {
    return *refused;
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return failed("the server has too little memory for this request; send a smaller batch");
  }
  complain(text("a request met a fault of the server: ", error.what()));
  return failed("the server failed on this request");
}

std::string as_sent(std::string_view sent) { return shortened(repr(sent.substr(0, 4 * most_shown))); }

std::string as_sent(const json::Value* sent) {
  if (sent == nullptr) {
    return "None";
  }
  const auto* string = std::get_if<std::string>(sent);
  return string == nullptr ? shortened(json::shown(*sent, most_shown)) : as_sent(std::string_view(*string));
}

std::string in_words(std::chrono::duration<double> seconds) {
  constexpr int digits = 6;
  std::array<char, 32> all{};
  return {all.data(),
          std::to_chars(all.data(), all.data() + all.size(), seconds.count(), std::chars_format::general, digits).ptr};
}

}  // namespace plainconv::serve
