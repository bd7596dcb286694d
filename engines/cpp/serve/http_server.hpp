// The server's life: it listens, serves each connection on a few threads, and answers what it accepted before it ends.
//
// Told to stop, it is first no longer ready, and goes on for a while, so that whoever watches it sends elsewhere. Then
// it takes no further connection. Connections that are there get their answers, the last with `connection: close`;
// those that are idle are closed.
#pragma once

#include <memory>

#include "certificates.hpp"
#include "listener.hpp"
#include "session.hpp"

namespace plainconv::serve {

class HttpServer {
 public:
  /// Serves from here on, with TLS where there are certificates.
  HttpServer(Listener listener, Shared& shared, const Certificates* certificates = nullptr);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  HttpServer(HttpServer&&) = delete;
  HttpServer& operator=(HttpServer&&) = delete;
  /// Ends every connection, once no queue has a request of one.
  ~HttpServer();

  /// Answer what was accepted, within the grace time. How many requests were given up.
  std::size_t drain();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace plainconv::serve
