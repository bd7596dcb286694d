#include "connection.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "refusals.hpp"
#include "rest_codec.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::size_t piece = 16 * 1024UL;  // that is received at once where the length is not known
constexpr std::size_t most_line = 4096;     // of a chunk's size, or a trailer

Refused gone() { return left("the sender left before its request was there"); }

Clock::time_point after(Seconds seconds) { return Clock::now() + std::chrono::duration_cast<Clock::duration>(seconds); }

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) {
    ::close(number_);
  }
}

Body body_of(std::size_t size, std::size_t aligned_at) {
  Body body;
  body.memory = std::make_unique_for_overwrite<std::byte[]>(size + alignment);  // NOLINT(*-avoid-c-arrays)
  const auto start = std::bit_cast<std::uintptr_t>(body.memory.get());
  const std::size_t offset = (alignment - (start + aligned_at) % alignment) % alignment;
  body.bytes = {body.memory.get() + offset, size};
  return body;
}

Connection::Wait Connection::wait(short events, Clock::time_point deadline, bool may_stop) const {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) {
      return Wait::late;
    }
    std::array<pollfd, 2> ready = {pollfd{socket_.get(), events, 0}, pollfd{stop_, POLLIN, 0}};
    const int found = ::poll(ready.data(), may_stop ? 2 : 1, static_cast<int>(std::min<std::int64_t>(left, INT32_MAX)));
    if (found > 0) {
      return ready[0].revents != 0 ? Wait::ready : Wait::stopped;
    }
  }
}

std::size_t Connection::receive(std::span<std::byte> to, Clock::time_point deadline, Seconds timeout) const {
  while (true) {
    const ssize_t count = ::recv(socket_.get(), to.data(), to.size(), MSG_DONTWAIT);
    if (count >= 0) {
      return static_cast<std::size_t>(count);
    }
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      return 0;
    }
    if (wait(POLLIN, deadline, false) == Wait::late) {
      throw slow(text("the request's body was not there within ", in_words(timeout), " s"));
    }
  }
}

void Connection::fill(Clock::time_point deadline, Seconds timeout) {
  buffer_.erase(0, std::exchange(read_, 0));
  const std::size_t size = buffer_.size();
  buffer_.resize(size + piece);
  const std::size_t count = receive(std::as_writable_bytes(std::span(buffer_)).subspan(size), deadline, timeout);
  buffer_.resize(size + count);
  if (count == 0) {
    throw gone();
  }
}

std::optional<std::string_view> Connection::next_head(Seconds idle, Seconds timeout) {
  buffer_.erase(0, std::exchange(read_, 0));
  std::optional<Clock::time_point> deadline;
  while (true) {
    while (buffer_.starts_with("\r\n")) {  // an empty line before a request is passed over
      buffer_.erase(0, 2);
    }
    if (const auto size = head_size(buffer_)) {
      if (*size > most_head) {
        throw bad_request(text("the headers are longer than ", most_head, " bytes"));
      }
      read_ = *size;
      return std::string_view(buffer_).substr(0, *size);
    }
    if (buffer_.size() > most_head) {
      throw bad_request(text("the headers are longer than ", most_head, " bytes"));
    }
    if (!deadline && !buffer_.empty()) {
      deadline = after(timeout);
    }
    const std::size_t size = buffer_.size();
    buffer_.resize(size + piece);
    ssize_t count = ::recv(socket_.get(), buffer_.data() + size, piece, MSG_DONTWAIT);
    const int error = count < 0 ? errno : 0;
    buffer_.resize(size + static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    if (count > 0 || error == EINTR) {
      continue;
    }
    if (count == 0 || (error != EAGAIN && error != EWOULDBLOCK) ||
        wait(POLLIN, deadline.value_or(after(idle)), true) != Wait::ready) {
      return std::nullopt;
    }
  }
}

Body Connection::read_body(std::optional<std::size_t> length, std::size_t aligned_at, std::size_t limit,
                           Seconds timeout) {
  const auto deadline = after(timeout);
  return length ? read_known(*length, aligned_at, deadline, timeout)
                : read_chunks(limit, aligned_at, deadline, timeout);
}

Body Connection::read_known(std::size_t length, std::size_t aligned_at, Clock::time_point deadline, Seconds timeout) {
  Body body = body_of(length, aligned_at);
  const std::size_t here = std::min(length, unread().size());
  std::memcpy(body.bytes.data(), unread().data(), here);
  read_ += here;
  for (std::size_t end = here; end < length;) {
    const std::size_t count = receive(body.bytes.subspan(end), deadline, timeout);
    if (count == 0) {
      throw gone();
    }
    end += count;
  }
  return body;
}

std::string Connection::take_line(Clock::time_point deadline, Seconds timeout) {
  while (true) {
    const auto end = unread().find("\r\n");
    if (std::min(end, unread().size()) > most_line) {
      throw bad_request("the body is not in chunks as transfer-encoding says");
    }
    if (end != std::string_view::npos) {
      std::string line(unread().substr(0, end));
      read_ += end + 2;
      return line;
    }
    fill(deadline, timeout);
  }
}

Body Connection::read_chunks(std::size_t limit, std::size_t aligned_at, Clock::time_point deadline, Seconds timeout) {
  std::string all;
  while (const std::size_t size = chunk_size(take_line(deadline, timeout))) {
    if (size > limit - all.size()) {
      throw too_large(text("the request's body is larger than the ", limit, " bytes that this server takes"));
    }
    for (std::size_t left = size; left != 0;) {
      if (unread().empty()) {
        fill(deadline, timeout);
      }
      const auto part = unread().substr(0, left);
      all += part;
      left -= part.size();
      read_ += part.size();
    }
    if (!take_line(deadline, timeout).empty()) {
      throw bad_request("the body is not in chunks as transfer-encoding says");
    }
  }
  for (std::size_t trailers = 0; !take_line(deadline, timeout).empty();) {
    if (++trailers > most_headers) {
      throw bad_request(text("there are more than ", most_headers, " headers"));
    }
  }
  Body body = body_of(all.size(), std::min(aligned_at, all.size()));
  std::memcpy(body.bytes.data(), all.data(), all.size());
  return body;
}

bool Connection::send(std::span<const std::string_view> pieces, Clock::time_point deadline) {
  std::vector<iovec> left;
  for (const std::string_view each : pieces) {
    if (!each.empty()) {
      left.push_back({const_cast<char*>(each.data()), each.size()});  // NOLINT(*-const-cast): it only reads it
    }
  }
  for (std::size_t first = 0; first < left.size();) {
    msghdr message{};
    message.msg_iov = &left[first];
    message.msg_iovlen = std::min<std::size_t>(left.size() - first, IOV_MAX);
    const ssize_t count = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0) {
      const bool is_full = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
      if (!is_full || wait(POLLOUT, deadline, false) != Wait::ready) {
        return false;
      }
      continue;
    }
    for (auto sent = static_cast<std::size_t>(count); sent != 0;) {
      const std::size_t part = std::min(sent, left[first].iov_len);
      left[first].iov_base = static_cast<char*>(left[first].iov_base) + part;
      left[first].iov_len -= part;
      sent -= part;
      first += left[first].iov_len == 0 ? 1 : 0;
    }
  }
  return true;
}

bool Connection::is_left() const noexcept {
  pollfd ready{socket_.get(), POLLRDHUP, 0};
  return ::poll(&ready, 1, 0) > 0;
}

void Connection::linger() {
  constexpr std::chrono::seconds while_(2);
  std::vector<std::byte> thrown_away(4 * piece);
  ::shutdown(socket_.get(), SHUT_WR);
  const auto deadline = Clock::now() + while_;
  try {
    while (receive(thrown_away, deadline, while_) != 0 && Clock::now() < deadline) {
    }
  } catch (const Refused&) {  // it goes on sending, or does not close
    return;
  }
}

std::string Connection::peer() const {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  std::array<char, INET6_ADDRSTRLEN> words{};
  if (::getpeername(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {  // NOLINT(*-reinterpret-cast)
    return "";
  }
  const void* number = address.ss_family == AF_INET6
                           ? static_cast<const void*>(&reinterpret_cast<sockaddr_in6*>(&address)->sin6_addr)  // NOLINT
                           : static_cast<const void*>(&reinterpret_cast<sockaddr_in*>(&address)->sin_addr);   // NOLINT
  return ::inet_ntop(address.ss_family, number, words.data(), words.size()) == nullptr ? "" : words.data();
}

}  // namespace plainconv::serve
