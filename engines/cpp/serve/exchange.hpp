// One connection's requests and answers as bytes: heads and bodies in, answers out, each in its time.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "request_parser.hpp"
#include "service.hpp"
#include "wire.hpp"

namespace plainconv::serve {

inline constexpr std::string_view json_type = "application/json";
inline constexpr Seconds ask_every(0.05);  // whether a sender is gone

/// What is sent for one request.
struct Answer {
  int status = 200;
  std::string_view type = json_type;
  std::string headers = {};  // further lines
  Reply reply = {};

  [[nodiscard]] std::size_t size() const noexcept;
};

/// That of a request that was refused.
[[nodiscard]] Answer answer_of(const Refused& refused);

/// All of an answer that is no result, with which its connection ends.
[[nodiscard]] std::string whole_refusal(int status, std::string_view sentence);

class Exchange {
 public:
  template <class T>
  using Awaitable = Wire::Awaitable<T>;

  Exchange(std::shared_ptr<Wire> wire, const ServeOptions& options) : wire_(std::move(wire)), options_(options) {}

  /// The handshake of TLS, where there is TLS. False where there is none in time.
  Awaitable<bool> begin();
  /// Whether there is another request, whose head has been read. Throws Refused for one that is none.
  Awaitable<bool> next_head();
  [[nodiscard]] const Head& head() const { return parser_->head(); }
  /// Whether the body of that request has not been read: what follows is no request.
  [[nodiscard]] bool has_body_left() const noexcept { return has_body_left_; }
  /// The body, its byte `aligned_at` where any number may be; it takes its room as it arrives. Throws Refused.
  Awaitable<Body> read_body(std::size_t aligned_at, Service::Room& room);
  /// Send an answer, the connection's last where it `closes`. Whether it could be.
  Awaitable<bool> send(const Answer& answer, bool closes);
  /// End the connection, but let the other side read the answer first. From one who may not ask nothing more is read.
  Awaitable<void> linger(bool may_ask);

  [[nodiscard]] const std::shared_ptr<Wire>& wire() const noexcept { return wire_; }

 private:
  [[nodiscard]] Refused no_body() const;
  /// More bytes into the buffer. False where there are none, or none in time.
  Awaitable<bool> fill(std::size_t most);

  std::shared_ptr<Wire> wire_;
  const ServeOptions& options_;
  std::optional<RequestParser> parser_;
  std::string buffer_;    // what was received and not read yet
  bool is_kept_ = false;  // the connection has had a request
  bool has_body_left_ = false;
};

}  // namespace plainconv::serve
