// The requests of one connection, one after the other: read, routed, answered.
#pragma once

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <cstddef>
#include <memory>

#include "access_log.hpp"
#include "auth.hpp"
#include "service.hpp"
#include "wire.hpp"

namespace plainconv::serve {

/// What all connections share.
struct Shared {
  Service& service;
  AccessLog& log;
  Batcher::Complain complain;
  Bearer bearer;
  std::atomic<bool> draining = false;      // about to stop: not ready
  std::atomic<std::size_t> under_way = 0;  // requests whose head was read, and that have no answer yet
  std::atomic<std::size_t> handled = 0;    // requests that had been
  std::atomic<std::size_t> computing = 0;  // requests that a queue is to wake
};

/// Answer the requests of a connection until it ends; what takes long is done by `codec`. Throws nothing that a request
/// can cause.
Wire::Awaitable<void> serve_connection(std::shared_ptr<Wire> wire, Shared& shared, boost::asio::thread_pool& codec);

}  // namespace plainconv::serve
