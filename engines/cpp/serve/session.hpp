// The requests of one connection: read strictly by us, routed and answered by cpp-httplib.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <string>

#include "access_log.hpp"
#include "auth.hpp"
#include "connection.hpp"
#include "service.hpp"

namespace plainconv::serve {

/// What all connections share.
struct Shared {
  Service& service;
  const ServeOptions& options;
  AccessLog& log;
  Batcher::Complain complain;
  Bearer bearer;
  std::atomic<bool> draining = false;
  std::atomic<std::size_t> under_way = 0;  // requests whose head was read, and that have no answer yet
  std::atomic<std::size_t> handled = 0;    // requests that had been
};

/// Answer the requests of a connection until it ends. Throws nothing that a request can cause.
void serve_connection(Connection connection, Shared& shared);

/// {"error": "sentence"}
[[nodiscard]] std::string error_json(std::string_view sentence);

/// All of an answer that is no result, with which its connection ends.
[[nodiscard]] std::string whole_refusal(int status, std::string_view sentence);

}  // namespace plainconv::serve
