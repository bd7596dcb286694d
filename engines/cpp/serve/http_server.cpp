#include "http_server.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::chrono::milliseconds tick(20);
constexpr std::chrono::milliseconds quiet_for(
    300);  // without a request: then nobody is about to send one on an open connection

void signal_to(const Descriptor& event) noexcept { ::eventfd_write(event.get(), 1); }

Descriptor event() {
  Descriptor made(::eventfd(0, EFD_CLOEXEC));
  if (made.get() < 0) {
    throw Error(text("the server cannot wait for its end (", std::generic_category().message(errno),
                     "); raise the limit of open files"));
  }
  return made;
}

}  // namespace

Listener::Listener(const std::string& host, int port) {
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
  std::string why = error == 0 ? "" : ::gai_strerror(error);
  if (error == 0) {
    constexpr int on = 1;
    constexpr int backlog = 1024;
    socket_ = Descriptor(::socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, found->ai_protocol));
    const bool is_sound =
        socket_.get() >= 0 && ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
        ::bind(socket_.get(), found->ai_addr, found->ai_addrlen) == 0 && ::listen(socket_.get(), backlog) == 0;
    why = is_sound ? "" : std::generic_category().message(errno);
    ::freeaddrinfo(found);
  }
  if (!why.empty()) {
    throw Error(text("HTTP cannot listen on ", host, ":", port, " (", why,
                     "); give another --host or --port, or port 0 for any that is free"));
  }
}

int Listener::port() const {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size);  // NOLINT(*-reinterpret-cast)
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port  // NOLINT
                                             : reinterpret_cast<sockaddr_in*>(&address)->sin_port);  // NOLINT
}

HttpServer::HttpServer(Listener listener, Shared& shared)
    : listener_(std::move(listener)),
      shared_(shared),
      stop_accepting_(event()),
      stop_idling_(event()),
      accepting_([this] { accept_all(); }) {}

HttpServer::~HttpServer() {
  signal_to(stop_accepting_);
  signal_to(stop_idling_);
  if (accepting_.joinable()) {
    accepting_.join();
  }
  while (connections() != 0) {
    std::this_thread::sleep_for(tick);
  }
  join_ended();
}

std::size_t HttpServer::connections() {
  const std::scoped_lock lock(mutex_);
  return open_.size();
}

std::size_t HttpServer::drain() {
  shared_.draining = true;
  signal_to(stop_accepting_);
  accepting_.join();
  listener_.close();
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(shared_.options.grace);
  auto quiet = Clock::now();
  std::size_t seen = shared_.handled;
  while (Clock::now() < end && (shared_.under_way != 0 || Clock::now() - quiet < quiet_for)) {
    if (shared_.under_way != 0 || shared_.handled != seen) {
      quiet = Clock::now();
      seen = shared_.handled;
    }
    std::this_thread::sleep_for(tick);
  }
  const std::size_t unanswered = shared_.under_way;
  signal_to(stop_idling_);
  return unanswered;
}

void HttpServer::accept_all() {
  std::array<pollfd, 2> ready = {pollfd{listener_.get(), POLLIN, 0}, pollfd{stop_accepting_.get(), POLLIN, 0}};
  while (true) {
    if (::poll(ready.data(), ready.size(), -1) < 0) {
      continue;
    }
    if (ready[1].revents != 0) {
      break;
    }
    Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (socket.get() >= 0) {
      take(std::move(socket));
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      std::this_thread::sleep_for(tick);  // until a connection ends
    }
    join_ended();
  }
  // Those that were there before the end was asked for are waiting for an answer: take them as well.
  const int flags = SOCK_CLOEXEC;
  ready[0].revents = 0;
  while (::poll(ready.data(), 1, 0) > 0) {
    Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, flags));
    if (socket.get() < 0) {
      break;
    }
    take(std::move(socket));
  }
}

void HttpServer::take(Descriptor socket) {
  constexpr int on = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  const int number = socket.get();
  const auto refuse = [&] {
    const std::string all = whole_refusal(503, "the server has as many connections as it takes; try again later");
    ::send(number, all.data(), all.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    shared_.service.metrics().answered(503);
  };
  const std::scoped_lock lock(mutex_);
  if (open_.size() >= shared_.options.max_connections) {
    refuse();
    return;
  }
  const auto own = open_.emplace(open_.end());
  auto connection = std::make_shared<Connection>(std::move(socket), stop_idling_.get());
  try {
    *own = std::thread([this, own, connection]() mutable {
      try {
        serve_connection(std::move(*connection), shared_);
      } catch (const std::exception& error) {  // no memory for it
        shared_.complain(text("a connection was given up: ", error.what()));
      }
      connection.reset();
      const std::scoped_lock here(mutex_);
      ended_.splice(ended_.end(), open_, own);
    });
  } catch (const std::system_error&) {  // no more threads
    refuse();
    open_.erase(own);
  }
}

void HttpServer::join_ended() {
  std::list<std::thread> ended;
  {
    const std::scoped_lock lock(mutex_);
    ended.swap(ended_);
  }
  for (std::thread& thread : ended) {
    thread.join();
  }
}

}  // namespace plainconv::serve
