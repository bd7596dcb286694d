// The requests of one connection, one after the other: read, routed, answered.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <memory>

#include "shared.hpp"
#include "wire.hpp"

namespace plainconv::serve {

/// Answer the requests of a connection until it ends; what takes long is done by `codec`. Throws nothing that a request
/// can cause.
Wire::Awaitable<void> serve_connection(std::shared_ptr<Wire> wire, Shared& shared, boost::asio::thread_pool& codec);

}  // namespace plainconv::serve
