// The requests of one connection, one after the other: read, routed, answered.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <memory>

#include "shared.hpp"
#include "wire.hpp"

namespace plainconv::serve {

/// The threads of what takes long.
struct Pools {
  boost::asio::thread_pool codec{2};    // large bodies: their objects take many times the memory of their text
  boost::asio::thread_pool control{1};  // loading models, one at a time: no body waits for that
};

/// Answer the requests of a connection until it ends. Throws nothing that a request can cause.
Wire::Awaitable<void> serve_connection(std::shared_ptr<Wire> wire, Shared& shared, Pools& pools);

}  // namespace plainconv::serve
