// The connections that gRPC serves, as the system sees them: what floods it is cut off. gRPC 1.51 keeps what it cannot
// read yet of headers without end, and every call that was begun, if only to be given up at once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "listener.hpp"

namespace plainconv::serve::rpc {

inline constexpr int most_streams = 128;  // of one connection at a time

/// The bytes that a connection of TCP has received; 0 of another.
[[nodiscard]] std::uint64_t received_by(int socket);

/// A peer as the system names it: "127.0.0.1:50000" of "ipv4:127.0.0.1:50000", "::1:50000" of "ipv6:%5B::1%5D:50000";
/// "" of a Unix socket.
[[nodiscard]] std::string name_of(std::string_view peer);
/// The same without the port.
[[nodiscard]] std::string address_of(std::string_view peer);

/// From any thread. Connections of a Unix socket are all one, and not watched.
class Guests {
 public:
  /// So many calls there may be, three quarters of them of one address; a message has up to `most_message` bytes, all
  /// of an address `most_messages`.
  Guests(std::size_t most, std::size_t most_message, std::size_t most_messages);

  /// Watch a connection by a second handle of it, and keep its place, until it ends.
  void add(std::shared_ptr<Doorway::Socket> second, Doorway::Place place);

  /// A call of `peer`, as gRPC names it, began, whose messages may be large or not: whether its address may have it.
  [[nodiscard]] bool began(std::string_view peer, bool is_large);
  /// A message of one is there.
  void moved(std::string_view peer);
  /// One ended, given up by its sender or not.
  void ended(std::string_view peer, bool is_large, bool is_given_up);

  /// Cut those that send much beside messages; give the system back what those that have ended took.
  void look(Clock::time_point now);

 private:
  struct Guest {
    Doorway::Socket* second;     // that the wait for its end holds
    std::size_t calls = 0;       // under way
    std::size_t large = 0;       // of them
    std::size_t given_up = 0;    // more than were answered
    std::uint64_t received = 0;  // bytes, when a call began, had a message or ended
  };

  Guest* of(std::string_view peer);
  /// Cut a connection, and have its memory given back.
  void cut(Guest& guest);

  std::mutex mutex_;
  std::optional<Clock::time_point> littered_;    // when one ended that had sent much for nothing
  std::map<std::string, Guest> guests_;          // by address and port
  std::map<std::string, std::size_t> calls_of_;  // by address
  std::size_t share_;
  std::size_t most_message_;
  std::size_t most_messages_;
};

}  // namespace plainconv::serve::rpc
