// One TCP connection: heads and bodies in, bytes out. Nothing waits longer than it is allowed to.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "head.hpp"
#include "options.hpp"

namespace plainconv::serve {

/// A file descriptor that is closed at its end.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) noexcept : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();

  [[nodiscard]] int get() const noexcept { return number_; }

 private:
  int number_;
};

/// A body in memory of its own.
struct Body {
  std::unique_ptr<std::byte[]> memory;  // NOLINT(*-avoid-c-arrays): a vector would write zeros first
  std::span<std::byte> bytes;
};

/// Memory for `size` bytes, the byte `aligned_at` of them where any number may be.
[[nodiscard]] Body body_of(std::size_t size, std::size_t aligned_at);

class Connection {
 public:
  /// `stop` becomes readable once the server wants idle connections to end.
  Connection(Descriptor socket, int stop) noexcept : socket_(std::move(socket)), stop_(stop) {}

  /// The text of the next request's head; nothing where there is none: the sender is gone, was idle for `idle`, or the
  /// server stops. Valid until the next call. Throws Refused for one that is too large or not there within `timeout`.
  [[nodiscard]] std::optional<std::string_view> next_head(Seconds idle, Seconds timeout);

  /// The body of `length` bytes, or in chunks of up to `limit` together. Throws Refused.
  [[nodiscard]] Body read_body(std::optional<std::size_t> length, std::size_t aligned_at, std::size_t limit,
                               Seconds timeout);

  /// Send all of it. False where the other side does not take it in time, or is gone.
  bool send(std::span<const std::string_view> pieces, Clock::time_point deadline);

  /// Whether the other side has closed its end.
  [[nodiscard]] bool is_left() const noexcept;

  /// Close, but let the other side read the answer first: read what it still sends, for a while.
  void linger();

  /// The other side's address.
  [[nodiscard]] std::string peer() const;

 private:
  enum class Wait { ready, late, stopped };
  [[nodiscard]] Wait wait(short events, Clock::time_point deadline, bool may_stop) const;
  /// More bytes into `to`: how many; 0 at the end. Throws Refused where there are none in time.
  [[nodiscard]] std::size_t receive(std::span<std::byte> to, Clock::time_point deadline, Seconds timeout) const;
  /// More bytes into the buffer.
  void fill(Clock::time_point deadline, Seconds timeout);
  [[nodiscard]] Body read_known(std::size_t length, std::size_t aligned_at, Clock::time_point deadline,
                                Seconds timeout);
  [[nodiscard]] Body read_chunks(std::size_t limit, std::size_t aligned_at, Clock::time_point deadline,
                                 Seconds timeout);
  /// The next line of the buffer, without its end.
  [[nodiscard]] std::string take_line(Clock::time_point deadline, Seconds timeout);
  [[nodiscard]] std::string_view unread() const noexcept { return std::string_view(buffer_).substr(read_); }

  Descriptor socket_;
  int stop_;
  std::string buffer_;    // what was received and is no body
  std::size_t read_ = 0;  // how much of it was taken
};

}  // namespace plainconv::serve
