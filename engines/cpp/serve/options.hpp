// What a server is told when it starts.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "plainconv/bundle.hpp"

namespace plainconv::serve {

inline constexpr std::size_t mebibyte = 1024UL * 1024UL;

/// Every fourth place or byte is kept from a peer that has all the others.
inline constexpr std::size_t kept = 4;

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

/// Where it listens, how it batches, what it takes and how long it waits. Sizes are in bytes; a port of 0 is any.
struct ServeOptions {
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string unix_socket;                   // a path, in the place of host and port
  std::optional<int> grpc_port;              // none: no gRPC
  std::string grpc_unix_socket;              // a path, in the place of host and gRPC's port
  std::string name;                          // of the model; empty: the network's
  std::int64_t max_batch = 32;               // rows of a run
  std::chrono::microseconds max_delay{500};  // that a request waits for others to share a run with
  int workers = 1;                           // runs of a model at a time
  std::size_t max_queue = 256;               // requests that wait for a model
  std::size_t max_body = 64 * mebibyte;
  std::size_t max_pending = 1024 * mebibyte;  // of all requests that are in the server
  std::size_t max_connections = 1024;
  Seconds timeout{30};         // of a request, its body and its answer each
  Seconds grace{30};           // for what is accepted, once the server is told to stop
  Seconds lame_duck{1};        // of these, not ready, but serving
  Seconds watch{2};            // between two looks at bundles and certificates on disk; 0: never
  bool repository = false;     // requests may list, load and unload models
  bool shared_memory = false;  // requests may name shared memory of this machine
  std::string token;           // empty: everyone may ask
  std::string tls_cert;        // files in PEM; empty: no TLS
  std::string tls_key;
  std::string access_log = "-";  // a file; "-" is stderr, empty is none
  Options network;

  [[nodiscard]] bool has_grpc() const noexcept { return grpc_port.has_value() || !grpc_unix_socket.empty(); }
};

}  // namespace plainconv::serve
