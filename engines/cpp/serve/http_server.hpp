// The server's life: it listens, has a thread for each connection, and answers what it accepted before it ends.
//
// Told to stop, it is no longer ready and takes no further connection. Connections that are there get their answers,
// the last with `connection: close`; those that have been idle for a while are closed.
#pragma once

#include <condition_variable>
#include <list>
#include <mutex>
#include <string>
#include <thread>

#include "session.hpp"

namespace plainconv::serve {

/// A socket that listens.
class Listener {
 public:
  /// Throws Error where the port is taken, or the address is none of this machine's.
  Listener(const std::string& host, int port);

  [[nodiscard]] int port() const;
  [[nodiscard]] int get() const noexcept { return socket_.get(); }
  void close() noexcept { socket_ = Descriptor(); }

 private:
  Descriptor socket_;
};

class HttpServer {
 public:
  /// Serves from here on.
  HttpServer(Listener listener, Shared& shared);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  HttpServer(HttpServer&&) = delete;
  HttpServer& operator=(HttpServer&&) = delete;
  /// Ends every connection, once what it waits for is over.
  ~HttpServer();

  /// Answer what was accepted, within the grace time. How many requests were given up.
  std::size_t drain();

  [[nodiscard]] std::size_t connections();

 private:
  void accept_all();
  void take(Descriptor socket);
  void join_ended();

  Listener listener_;
  Shared& shared_;
  Descriptor stop_accepting_;
  Descriptor stop_idling_;
  std::mutex mutex_;
  std::list<std::thread> open_;   // a thread for each connection
  std::list<std::thread> ended_;  // those that are about to end
  std::thread accepting_;
};

}  // namespace plainconv::serve
