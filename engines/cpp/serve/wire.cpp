#include "wire.hpp"

#include <poll.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <vector>

namespace plainconv::serve {

namespace net = boost::asio;

namespace {

constexpr auto outcome = net::as_tuple(net::use_awaitable);

Clock::time_point after(Seconds time) { return Clock::now() + std::chrono::duration_cast<Clock::duration>(time); }

}  // namespace

Wire::Wire(Socket socket, std::shared_ptr<net::ssl::context> tls, std::string peer)
    : socket_(std::move(socket)),
      tls_(std::move(tls)),
      timer_(socket_.get_executor()),
      pause_(socket_.get_executor()),
      peer_(std::move(peer)) {}

/// The timer goes on where it is early enough: to set one anew for each step would cost more than the steps.
void Wire::limit(Clock::time_point when) {
  is_late_ = false;
  const bool is_early = deadline_ && timer_.expiry() <= when;
  deadline_ = when;
  if (!is_early) {
    watch();
  }
}

void Wire::watch() {
  timer_.expires_at(*deadline_);
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& code) {
    const auto self = weak.lock();
    if (!self || code) {
      return;
    }
    if (Clock::now() < *self->deadline_) {
      self->watch();
      return;
    }
    self->deadline_.reset();
    self->is_late_ = true;
    boost::system::error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void Wire::limit(Seconds from_now) { limit(after(from_now)); }

Wire::Awaitable<bool> Wire::shake_hands() {
  if (!tls_) {
    co_return true;
  }
  const auto [silent] = co_await socket_.async_wait(Socket::wait_read, outcome);
  if (silent) {
    co_return false;
  }
  secure_.emplace(socket_, *tls_);  // its buffers are for those who say something
  const auto [code] = co_await secure_->async_handshake(net::ssl::stream_base::server, outcome);
  co_return !code;
}

Wire::Awaitable<std::size_t> Wire::read(std::span<std::byte> to) {
  const net::mutable_buffer buffer(to.data(), to.size());
  if (is_late_) {
    co_return 0;
  }
  if (secure_) {
    const auto [code, count] = co_await secure_->async_read_some(buffer, outcome);
    co_return code ? 0 : count;
  }
  const auto [code, count] = co_await socket_.async_read_some(buffer, outcome);
  co_return code ? 0 : count;
}

Wire::Awaitable<bool> Wire::write(std::span<const std::string_view> pieces) {
  std::vector<net::const_buffer> buffers;
  for (const std::string_view each : pieces) {
    if (!each.empty()) {
      buffers.emplace_back(each.data(), each.size());
    }
  }
  if (secure_) {
    const auto [code, count] = co_await net::async_write(*secure_, buffers, outcome);
    co_return !code;
  }
  const auto [code, count] = co_await net::async_write(socket_, buffers, outcome);
  co_return !code;
}

Wire::Awaitable<void> Wire::end() {
  if (secure_) {
    ::SSL_set_shutdown(secure_->native_handle(), SSL_RECEIVED_SHUTDOWN);  // ours is said, the other's not waited for
    co_await secure_->async_shutdown(outcome);
  }
  boost::system::error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
}

Wire::Awaitable<std::size_t> Wire::drop(std::span<std::byte> to) {
  const auto [code, count] = co_await socket_.async_read_some(net::mutable_buffer(to.data(), to.size()), outcome);
  co_return code ? 0 : count;
}

Wire::Awaitable<void> Wire::pause(Seconds time) {
  pause_.expires_at(after(time));
  co_await pause_.async_wait(outcome);
}

bool Wire::is_left() noexcept {
  pollfd ready{socket_.native_handle(), POLLRDHUP, 0};
  return ::poll(&ready, 1, 0) > 0;
}

}  // namespace plainconv::serve
