#include "http_server.hpp"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <deque>
#include <optional>
#include <thread>
#include <vector>

#include "exchange.hpp"

namespace plainconv::serve {

namespace net = boost::asio;

namespace {

constexpr std::chrono::milliseconds tick(20);
constexpr std::chrono::milliseconds quiet_for(
    300);  // without a request: then nobody is about to send one on an open connection

unsigned most_threads() {
  constexpr unsigned most = 4;
  return std::clamp(std::thread::hardware_concurrency(), 2U, most);
}

}  // namespace

struct HttpServer::State {
  Shared& shared;
  const Certificates* certificates;
  Pools pools;
  std::deque<net::io_context> loops;  // each of one thread, which has its connections to itself
  std::size_t turn = 0;
  std::vector<std::thread> threads;
  std::optional<Doorway> door;

  State(Shared& all, const Certificates* pair) : shared(all), certificates(pair) {}

  void take(Doorway::Socket socket, const std::string& peer, Doorway::Place place) {
    const auto executor = socket.get_executor();
    auto wire =
        std::make_shared<Wire>(std::move(socket), certificates == nullptr ? nullptr : certificates->context(), peer);
    net::co_spawn(executor, serve_connection(wire, shared, pools),
                  [this, kept_place = std::move(place)](const std::exception_ptr& failure) {
                    if (failure) {
                      shared.complain("a connection was given up for want of memory");
                    }
                  });
  }

  /// Say why, where it can be without a handshake; the request is not read.
  void refuse(Doorway::Socket& socket) const {
    boost::system::error_code ignored;
    if (certificates == nullptr) {
      const std::string all = whole_refusal(503, "the server has as many connections as it takes; try again later");
      socket.non_blocking(true, ignored);
      socket.write_some(net::buffer(all), ignored);
    }
    shared.service.metrics().answered("http", "503");
  }
};

HttpServer::HttpServer(Listener listener, Shared& shared, const Certificates* certificates)
    : state_(std::make_unique<State>(shared, certificates)) {
  State& state = *state_;
  for (unsigned i = 0; i < most_threads(); ++i) {
    net::io_context& io = state.loops.emplace_back(1);
    state.threads.emplace_back([&io, work = net::make_work_guard(io)] { io.run(); });
  }
  state.door.emplace(std::move(listener), shared.service.options().max_connections,
                     Doorway::Ways{[&state] { return state.loops[state.turn++ % state.loops.size()].get_executor(); },
                                   [&state](Doorway::Socket socket, const std::string& peer, Doorway::Place place) {
                                     state.take(std::move(socket), peer, std::move(place));
                                   },
                                   [&state](Doorway::Socket& socket) { state.refuse(socket); }});
}

HttpServer::~HttpServer() {
  state_->door->close();
  while (state_->shared.computing != 0) {
    std::this_thread::sleep_for(tick);
  }
  state_->pools.codec.join();
  state_->pools.control.join();
  for (net::io_context& io : state_->loops) {
    io.stop();
  }
  for (std::thread& thread : state_->threads) {
    thread.join();
  }
  state_->loops.clear();  // with the places of their connections
}

std::size_t HttpServer::drain() {
  Shared& shared = state_->shared;
  const ServeOptions& options = shared.service.options();
  shared.draining = true;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(options.grace);
  std::this_thread::sleep_for(std::min(options.lame_duck, options.grace));
  shared.refusing = true;
  state_->door->close();
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
