// The bytes of one connection, over TCP or a Unix socket, with TLS or without. Nothing waits longer than it is allowed
// to.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "options.hpp"

namespace plainconv::serve {

class Wire : public std::enable_shared_from_this<Wire> {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  template <class T>
  using Awaitable = boost::asio::awaitable<T>;

  /// With TLS where there is a context. `peer` is the address of the other side.
  Wire(Socket socket, std::shared_ptr<boost::asio::ssl::context> tls, std::string peer);

  /// What is under way or begins from now on ends at `when`, if it has not before.
  void limit(Clock::time_point when);
  void limit(Seconds from_now);
  /// Whether that time was up.
  [[nodiscard]] bool is_late() const noexcept { return is_late_; }

  /// The handshake of TLS, where there is TLS. False where there is none in time.
  Awaitable<bool> shake_hands();
  /// More bytes into `to`: how many; 0 at the end, and where there are none in time.
  Awaitable<std::size_t> read(std::span<std::byte> to);
  /// Send all of it. False where the other side does not take it in time, or is gone.
  Awaitable<bool> write(std::span<const std::string_view> pieces);
  /// Say that nothing more will be sent.
  Awaitable<void> end();
  /// Bytes that nobody reads, after the end: how many; 0 where there are none, or none in time.
  Awaitable<std::size_t> drop(std::span<std::byte> to);
  /// Wait so long.
  Awaitable<void> pause(Seconds time);
  /// End a `pause`.
  void wake() { pause_.cancel(); }

  /// Whether the other side has closed its end.
  [[nodiscard]] bool is_left() noexcept;
  [[nodiscard]] const std::string& peer() const noexcept { return peer_; }
  [[nodiscard]] auto executor() { return socket_.get_executor(); }

 private:
  void watch();

  Socket socket_;
  std::shared_ptr<boost::asio::ssl::context> tls_;
  std::optional<boost::asio::ssl::stream<Socket&>> secure_;
  boost::asio::steady_timer timer_;
  std::optional<Clock::time_point> deadline_;
  boost::asio::steady_timer pause_;
  std::string peer_;
  bool is_late_ = false;
};

}  // namespace plainconv::serve
