#include "listener.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <cstring>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "plainconv/bundle.hpp"
#include "text.hpp"

namespace plainconv::serve {

namespace net = boost::asio;
using boost::system::error_code;
using Protocol = net::generic::stream_protocol;

namespace {

constexpr std::chrono::milliseconds no_handle_pause(100);  // where the system has no more file handles

/// The address of the other side, "" of a Unix socket.
std::string peer_of(const Doorway::Socket& socket) {
  error_code ignored;
  const auto end = tcp_of(socket.remote_endpoint(ignored));
  return end ? end->address().to_string() : "";
}

}  // namespace

std::optional<net::ip::tcp::endpoint> tcp_of(const Protocol::endpoint& end) {
  net::ip::tcp::endpoint tcp;
  const auto family = end.data()->sa_family;
  if (end.size() > tcp.capacity() || (family != AF_INET && family != AF_INET6)) {
    return std::nullopt;
  }
  std::memcpy(tcp.data(), end.data(), end.size());
  return tcp;
}

Address http_address(const ServeOptions& options) {
  return {"HTTP", options.host, options.port, options.unix_socket, "--port", "--unix-socket"};
}

Address grpc_address(const ServeOptions& options) {
  return {"gRPC",        options.host,        options.grpc_port.value_or(0), options.grpc_unix_socket,
          "--grpc-port", "--grpc-unix-socket"};
}

struct Listener::State {
  net::io_context io{1};  // of one thread
  net::basic_socket_acceptor<Protocol> acceptor{io};
  std::string path;  // of the Unix socket
  ino_t inode = 0;   // of it: another's may have taken its place
  int port = 0;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  State(State&&) = delete;
  State& operator=(State&&) = delete;
  ~State() {
    struct stat found = {};
    if (!path.empty() && ::lstat(path.c_str(), &found) == 0 && found.st_ino == inode) {
      ::unlink(path.c_str());
    }
  }

  void listen_at(const Protocol::endpoint& endpoint) {
    constexpr int backlog = 1024;
    const Protocol protocol = endpoint.protocol();
    acceptor.open(protocol);
    if (protocol.family() != AF_UNIX) {
      acceptor.set_option(net::socket_base::reuse_address(true));
    }
    acceptor.bind(endpoint);
    acceptor.listen(backlog);
  }

  void listen_at(const std::string& host, int wanted) {
    net::ip::tcp::resolver resolver(io);
    const auto found = resolver.resolve(host, std::to_string(wanted), net::ip::tcp::resolver::passive);
    listen_at(Protocol::endpoint(found.begin()->endpoint()));
    port = tcp_of(acceptor.local_endpoint()).value().port();
  }

  void listen_at(const std::string& given) {
    struct stat found = {};
    const net::local::stream_protocol::endpoint endpoint(given);
    if (::lstat(given.c_str(), &found) == 0 && S_ISSOCK(found.st_mode)) {
      error_code code;
      net::local::stream_protocol::socket other(io);
      other.connect(endpoint, code);
      if (code == net::error::connection_refused) {
        ::unlink(given.c_str());  // of a server that was killed
      }
    }
    listen_at(Protocol::endpoint(endpoint));
    path = given;
    if (::lstat(path.c_str(), &found) == 0) {
      inode = found.st_ino;
    }
  }
};

Listener::Listener(const Address& address) : state_(std::make_unique<State>()) {
  try {
    if (address.path.empty()) {
      state_->listen_at(address.host, address.port);
    } else {
      state_->listen_at(address.path);
    }
  } catch (const boost::system::system_error& error) {
    const std::string why = error.code().message();
    throw Error(address.path.empty()
                    ? text(address.protocol, " cannot listen on ", address.host, ":", address.port, " (", why,
                           "); give another --host or ", address.port_option, ", or port 0 for any that is free")
                    : text(address.protocol, " cannot listen on ", address.path, " (", why, "); give another ",
                           address.path_option));
  }
}

Listener::Listener(Listener&&) noexcept = default;
Listener& Listener::operator=(Listener&&) noexcept = default;
Listener::~Listener() = default;

int Listener::port() const { return state_->port; }

struct Doorway::State {
  std::mutex mutex;
  std::size_t open = 0;
  std::map<std::string, std::size_t> open_of;  // by the address of the other side
  std::size_t most;
  Ways ways;
  std::atomic<bool> is_closing = false;
  std::future<void> accepting;
  Listener listener;  // what waits there may hold places
  std::thread thread;

  State(Listener given, std::size_t limit, Ways all) : most(limit), ways(std::move(all)), listener(std::move(given)) {}

  [[nodiscard]] Listener::State& where() const { return *listener.state_; }
  [[nodiscard]] Executor next() const { return ways.next ? ways.next() : where().io.get_executor(); }

  net::awaitable<void> accept_all() {
    constexpr auto outcome = net::as_tuple(net::use_awaitable);
    auto& acceptor = where().acceptor;
    net::steady_timer pause(where().io);
    while (!is_closing) {
      auto [code, socket] = co_await acceptor.async_accept(next(), outcome);
      if (!code) {
        let_in(std::move(socket));
      } else if (!is_closing) {
        pause.expires_after(no_handle_pause);
        co_await pause.async_wait(outcome);
      }
    }
    // Those that were there before the end was asked for are waiting for an answer: take them as well.
    error_code code;
    acceptor.non_blocking(true, code);
    while (!code) {
      auto socket = acceptor.accept(next(), code);
      if (!code) {
        let_in(std::move(socket));
      }
    }
    acceptor.close(code);
  }

  void let_in(Socket socket) {
    error_code ignored;
    const std::string peer = peer_of(socket);
    if (!peer.empty()) {
      socket.set_option(net::ip::tcp::no_delay(true), ignored);
    }
    if (Place place = place_for(peer)) {
      ways.take(std::move(socket), peer, std::move(place));
    } else {
      ways.refuse(socket);
    }
  }

  /// None where there may not be one more; a quarter is kept from whoever has the rest.
  Place place_for(const std::string& peer) {
    const std::scoped_lock lock(mutex);
    const auto own = open_of.find(peer);
    if (open >= most || (!peer.empty() && own != open_of.end() && own->second >= most - most / kept)) {
      return nullptr;
    }
    ++open;
    ++open_of[peer];
    return {this, [peer](State* state) {
              const std::scoped_lock held(state->mutex);
              --state->open;
              if (--state->open_of[peer] == 0) {
                state->open_of.erase(peer);
              }
            }};
  }
};

Doorway::Doorway(Listener listener, std::size_t most, Ways ways)
    : state_(std::make_unique<State>(std::move(listener), most, std::move(ways))) {
  net::io_context& io = state_->where().io;
  state_->accepting = net::co_spawn(io, state_->accept_all(), net::use_future);
  state_->thread = std::thread([&io, work = net::make_work_guard(io)] { io.run(); });
}

Doorway::~Doorway() {
  close();
  state_->where().io.stop();
  state_->thread.join();
}

void Doorway::close() {
  if (!state_->is_closing.exchange(true)) {
    net::post(state_->where().io, [this] {
      error_code ignored;
      state_->where().acceptor.cancel(ignored);
    });
    state_->accepting.wait();
  }
}

}  // namespace plainconv::serve
