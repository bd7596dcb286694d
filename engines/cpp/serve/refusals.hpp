// Why a request gets no result: one sentence for its sender, with the status of HTTP for it.
//
// A sentence names what the sender sent and what the model takes; never a path, a version or a stack of this program.
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <string>
#include <string_view>

#include "bundle/json.hpp"
#include "plainconv/bundle.hpp"

namespace plainconv::serve {

/// A request that gets no result. `reason` is that in the metrics.
class Refused : public Error {
 public:
  Refused(int status, std::string_view reason, const std::string& sentence, std::string_view allowed = "")
      : Error(sentence), status_(status), reason_(reason), allowed_(allowed) {}

  [[nodiscard]] int status() const noexcept { return status_; }
  [[nodiscard]] std::string_view reason() const noexcept { return reason_; }
  /// The methods of a path that was asked for by another.
  [[nodiscard]] std::string_view allowed() const noexcept { return allowed_; }

 private:
  int status_;
  std::string_view reason_;  // of static storage
  std::string_view allowed_;
};

[[nodiscard]] inline Refused bad_request(const std::string& sentence) { return {400, "OTHER", sentence}; }
[[nodiscard]] inline Refused unauthorized(const std::string& sentence) { return {401, "OTHER", sentence}; }
[[nodiscard]] inline Refused forbidden(const std::string& sentence) { return {403, "OTHER", sentence}; }
[[nodiscard]] inline Refused unknown(const std::string& sentence) { return {404, "OTHER", sentence}; }
[[nodiscard]] inline Refused wrong_method(std::string_view allowed) {
  return {405, "OTHER", "this path takes another method", allowed};
}
[[nodiscard]] inline Refused taken(const std::string& sentence) { return {409, "OTHER", sentence}; }
[[nodiscard]] inline Refused slow(const std::string& sentence) { return {408, "CANCELED", sentence}; }
[[nodiscard]] inline Refused too_large(const std::string& sentence) { return {413, "REJECTED", sentence}; }
[[nodiscard]] inline Refused too_many(const std::string& sentence) { return {429, "REJECTED", sentence}; }
[[nodiscard]] inline Refused left(const std::string& sentence) { return {499, "CANCELED", sentence}; }
[[nodiscard]] inline Refused failed(const std::string& sentence) { return {500, "BACKEND", sentence}; }
[[nodiscard]] inline Refused unavailable(const std::string& sentence) { return {503, "REJECTED", sentence}; }
[[nodiscard]] inline Refused late(const std::string& sentence) { return {504, "CANCELED", sentence}; }

/// What is said of a request that met `error`; `complain` is told of a fault of the server's.
[[nodiscard]] Refused refusal_of(const std::exception& error, const std::function<void(const std::string&)>& complain);

/// What a sender sent, as a sentence may repeat it: quoted, its control characters escaped, cut at 80 characters.
[[nodiscard]] std::string as_sent(std::string_view sent);
/// The same of a value of JSON, which may be missing.
[[nodiscard]] std::string as_sent(const json::Value* sent);

/// A number of seconds: 30, 0.25.
[[nodiscard]] std::string in_words(std::chrono::duration<double> seconds);

using json::json_text;

}  // namespace plainconv::serve
