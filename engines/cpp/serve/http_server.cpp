#include "http_server.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "exchange.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {

namespace net = boost::asio;
using boost::system::error_code;

namespace {

constexpr std::chrono::milliseconds tick(20);
constexpr std::chrono::milliseconds no_handle_pause(100);  // where the system has no more file handles
constexpr std::chrono::milliseconds quiet_for(
    300);                  // without a request: then nobody is about to send one on an open connection
constexpr int codecs = 2;  // large bodies at a time: their objects take many times the memory of their text

unsigned most_threads() {
  constexpr unsigned most = 4;
  return std::clamp(std::thread::hardware_concurrency(), 2U, most);
}

}  // namespace

struct Listener::State {
  net::io_context io{1};  // of one thread
  std::optional<net::ip::tcp::acceptor> tcp;
  std::optional<net::local::stream_protocol::acceptor> local;
  std::string path;  // of the Unix socket

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  State(State&&) = delete;
  State& operator=(State&&) = delete;
  ~State() {
    if (!path.empty()) {
      ::unlink(path.c_str());
    }
  }

  void listen_at(const std::string& host, int port) {
    error_code code;
    net::ip::tcp::resolver resolver(io);
    const auto found = resolver.resolve(host, std::to_string(port), net::ip::tcp::resolver::passive, code);
    if (!code) {
      const net::ip::tcp::endpoint endpoint = found.begin()->endpoint();
      tcp.emplace(io);
      tcp->open(endpoint.protocol(), code);
      if (!code) {
        tcp->set_option(net::socket_base::reuse_address(true), code);
      }
      bind_and_listen(*tcp, endpoint, code);
    }
    if (code) {
      throw Error(text("HTTP cannot listen on ", host, ":", port, " (", code.message(),
                       "); give another --host or --port, or port 0 for any that is free"));
    }
  }

  void listen_at(const std::string& given) {
    error_code code;
    struct stat found = {};
    net::local::stream_protocol::socket other(io);
    try {
      if (::lstat(given.c_str(), &found) == 0 && S_ISSOCK(found.st_mode)) {
        other.connect(given, code);
        if (code == net::error::connection_refused) {
          ::unlink(given.c_str());  // of a server that was killed
        }
        code = {};
      }
      const net::local::stream_protocol::endpoint endpoint(given);
      local.emplace(io);
      local->open(endpoint.protocol(), code);
      bind_and_listen(*local, endpoint, code);
    } catch (const boost::system::system_error& error) {  // the path is too long
      code = error.code();
    }
    if (code) {
      throw Error(text("HTTP cannot listen on ", given, " (", code.message(), "); give another --unix-socket"));
    }
    path = given;
  }

  template <class Acceptor>
  static void bind_and_listen(Acceptor& acceptor, const typename Acceptor::endpoint_type& endpoint, error_code& code) {
    constexpr int backlog = 1024;
    if (!code) {
      acceptor.bind(endpoint, code);
    }
    if (!code) {
      acceptor.listen(backlog, code);
    }
  }
};

Listener::Listener(const ServeOptions& options) : state_(std::make_unique<State>()) {
  if (options.unix_socket.empty()) {
    state_->listen_at(options.host, options.port);
  } else {
    state_->listen_at(options.unix_socket);
  }
}

Listener::Listener(Listener&&) noexcept = default;
Listener& Listener::operator=(Listener&&) noexcept = default;
Listener::~Listener() = default;

int Listener::port() const { return state_->tcp ? state_->tcp->local_endpoint().port() : 0; }

struct HttpServer::State {
  Listener listener;
  Shared& shared;
  const Certificates* certificates;
  net::thread_pool codec{codecs};
  std::atomic<bool> is_stopping = false;
  std::future<void> accepting;
  std::mutex mutex;
  std::size_t open = 0;
  std::map<std::string, std::size_t> open_of;  // by the address of the other side
  std::deque<net::io_context> loops;           // each of one thread, which has its connections to itself
  std::size_t turn = 0;
  std::vector<std::thread> threads;

  State(Listener given, Shared& all, const Certificates* pair)
      : listener(std::move(given)), shared(all), certificates(pair) {}

  [[nodiscard]] Listener::State& where() const { return *listener.state_; }

  /// Where the next connection goes.
  [[nodiscard]] auto next() { return loops[turn++ % loops.size()].get_executor(); }

  template <class Acceptor>
  net::awaitable<void> accept_all(Acceptor& acceptor) {
    constexpr auto outcome = net::as_tuple(net::use_awaitable);
    net::steady_timer pause(acceptor.get_executor());
    while (!is_stopping) {
      auto [code, socket] = co_await acceptor.async_accept(next(), outcome);
      if (!code) {
        take(std::move(socket));
      } else if (!is_stopping) {
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
        take(std::move(socket));
      }
    }
    acceptor.close(code);
  }

  void stop_accepting() {
    if (!is_stopping.exchange(true)) {
      net::post(where().io, [this] {
        error_code ignored;
        if (where().tcp) {
          where().tcp->cancel(ignored);
        } else {
          where().local->cancel(ignored);
        }
      });
      accepting.wait();
    }
  }

  template <class Socket>
  void take(Socket socket) {
    std::string peer;
    error_code ignored;
    if constexpr (requires { socket.remote_endpoint().address(); }) {
      socket.set_option(net::ip::tcp::no_delay(true), ignored);
      const auto other = socket.remote_endpoint(ignored);
      peer = ignored ? "" : other.address().to_string();
    }
    if (!has_place(peer)) {
      refuse(socket);
      return;
    }
    const auto executor = socket.get_executor();
    auto wire =
        std::make_shared<Wire>(std::move(socket), certificates == nullptr ? nullptr : certificates->context(), peer);
    net::co_spawn(executor, serve_connection(wire, shared, codec), [this, peer](const std::exception_ptr& failure) {
      {
        const std::scoped_lock lock(mutex);
        --open;
        if (--open_of[peer] == 0) {
          open_of.erase(peer);
        }
      }
      if (failure) {
        shared.complain("a connection was given up for want of memory");
      }
    });
  }

  /// Count a connection of `peer`, where there may be one more; a quarter is kept from whoever has the rest.
  bool has_place(const std::string& peer) {
    const std::size_t most = shared.service.options().max_connections;
    const std::scoped_lock lock(mutex);
    const auto own = open_of.find(peer);
    if (open >= most || (!peer.empty() && own != open_of.end() && own->second >= most - most / kept)) {
      return false;
    }
    ++open;
    ++open_of[peer];
    return true;
  }

  /// Say why, where it can be without a handshake; the request is not read.
  template <class Socket>
  void refuse(Socket& socket) {
    error_code ignored;
    if (certificates == nullptr) {
      const std::string all = whole_refusal(503, "the server has as many connections as it takes; try again later");
      socket.non_blocking(true, ignored);
      socket.write_some(net::buffer(all), ignored);
    }
    shared.service.metrics().answered("http", "503");
  }
};

HttpServer::HttpServer(Listener listener, Shared& shared, const Certificates* certificates)
    : state_(std::make_unique<State>(std::move(listener), shared, certificates)) {
  State& state = *state_;
  Listener::State& where = state.where();
  const auto run = [&state](net::io_context& io) {
    state.threads.emplace_back([&io, work = net::make_work_guard(io)] { io.run(); });
  };
  for (unsigned i = 0; i < most_threads(); ++i) {
    run(state.loops.emplace_back(1));
  }
  state.accepting = where.tcp ? net::co_spawn(where.io, state.accept_all(*where.tcp), net::use_future)
                              : net::co_spawn(where.io, state.accept_all(*where.local), net::use_future);
  run(where.io);
}

HttpServer::~HttpServer() {
  state_->stop_accepting();
  while (state_->shared.computing != 0) {
    std::this_thread::sleep_for(tick);
  }
  state_->codec.join();
  state_->where().io.stop();
  for (net::io_context& io : state_->loops) {
    io.stop();
  }
  for (std::thread& thread : state_->threads) {
    thread.join();
  }
}

std::size_t HttpServer::drain() {
  Shared& shared = state_->shared;
  const ServeOptions& options = shared.service.options();
  shared.draining = true;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(options.grace);
  std::this_thread::sleep_for(std::min(options.lame_duck, options.grace));
  state_->stop_accepting();
  auto quiet = Clock::now();
  std::size_t seen = shared.handled;
  while (Clock::now() < end && (shared.under_way != 0 || Clock::now() - quiet < quiet_for)) {
    if (shared.under_way != 0 || shared.handled != seen) {
      quiet = Clock::now();
      seen = shared.handled;
    }
    std::this_thread::sleep_for(tick);
  }
  return shared.under_way;
}

}  // namespace plainconv::serve
