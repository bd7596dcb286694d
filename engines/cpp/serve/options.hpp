// What a server is told when it starts.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "plainconv/bundle.hpp"

namespace plainconv::serve {

inline constexpr std::size_t mebibyte = 1024UL * 1024UL;

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

/// Where it listens, how it batches, what it takes and how long it waits. Sizes are in bytes; a port of 0 is any.
struct ServeOptions {
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string name;                          // of the model; empty: the network's
  std::int64_t max_batch = 32;               // rows of a run
  std::chrono::microseconds max_delay{500};  // that a request waits for others to share a run with
  int workers = 1;                           // runs at a time
  std::size_t max_queue = 256;               // requests that wait
  std::size_t max_body = 64 * mebibyte;
  std::size_t max_pending = 1024 * mebibyte;  // of all requests that are in the server
  std::size_t max_connections = 1024;         // each has a thread, idle or not
  Seconds timeout{30};                        // of a request, its body and its answer each
  Seconds grace{30};                          // for what is accepted, once the server is told to stop
  std::string token;                          // empty: everyone may ask
  std::string access_log = "-";               // a file; "-" is stderr, empty is none
  Options network;
};

}  // namespace plainconv::serve
