// Where a server listens, and who may come in: as many connections as it takes, three quarters of them from one
// address.
#pragma once

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "options.hpp"

namespace plainconv::serve {

/// A host and port, or the path of a Unix socket; whose they are, and the options that say so, for who gets an error.
struct Address {
  std::string_view protocol;
  std::string host;
  int port = 0;
  std::string path;
  std::string_view port_option;
  std::string_view path_option;
};

/// Of HTTP, and of gRPC, which has none where its port is not given.
[[nodiscard]] Address http_address(const ServeOptions& options);
[[nodiscard]] Address grpc_address(const ServeOptions& options);

/// The address and port of an end of a connection; none of a Unix socket.
[[nodiscard]] std::optional<boost::asio::ip::tcp::endpoint> tcp_of(
    const boost::asio::generic::stream_protocol::endpoint& end);

/// A socket that listens.
class Listener {
 public:
  /// Throws Error where the address is taken, or none of this machine's.
  explicit Listener(const Address& address);
  Listener(Listener&&) noexcept;
  Listener& operator=(Listener&&) noexcept;
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener();

  /// 0 of a Unix socket.
  [[nodiscard]] int port() const;

 private:
  friend class Doorway;
  struct State;
  std::unique_ptr<State> state_;
};

/// Accepts connections, in a thread of its own.
class Doorway {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  using Executor = boost::asio::io_context::executor_type;
  /// A place among the connections, kept as long as it is held.
  using Place = std::shared_ptr<void>;

  /// What becomes of connections, in that thread.
  struct Ways {
    std::function<Executor()> next;  // that of the next one; none: the thread's
    std::function<void(Socket socket, const std::string& peer, Place place)> take;
    std::function<void(Socket& socket)> refuse;  // there is no place
  };

  Doorway(Listener listener, std::size_t most, Ways ways);
  Doorway(const Doorway&) = delete;
  Doorway& operator=(const Doorway&) = delete;
  Doorway(Doorway&&) = delete;
  Doorway& operator=(Doorway&&) = delete;
  /// Closes it, and ends the thread.
  ~Doorway();

  /// Take those that wait, and then no more. Closing twice does nothing.
  void close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace plainconv::serve
