// One line of JSON for each request, written by a thread of its own: a slow disk or a full pipe holds up no request.
//
// Keys: time, protocol, method, status, ms, client, of HTTP path and bytes_out, and where they are known model, id,
// bytes_in, rows, queue_ms, compute_ms, batch_rows; trace_id, span_id and tracestate of the sender's trace (W3C Trace
// Context).
// What cannot be written in time is dropped and counted in a line of its own.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "options.hpp"

namespace plainconv::serve {

/// The trace that a request is part of: hexadecimal digits, empty where it names none.
struct Trace {
  std::string trace_id;
  std::string span_id;
  std::string state;
};

/// That of the headers traceparent and tracestate.
[[nodiscard]] Trace trace_of(std::string_view parent, std::string_view state);

/// What is known of a request that was answered.
struct Facts {
  std::string method;
  std::string path;
  int status = 0;
  std::string_view grpc_status;  // of static storage; empty: it is HTTP's
  Seconds took{0};
  std::string client;
  std::size_t bytes_out = 0;
  std::optional<std::size_t> bytes_in;
  std::optional<std::string> model;
  std::string id;
  std::int64_t rows = 0;  // 0: it was not run
  Seconds queued{0};
  Seconds computed{0};
  std::int64_t batch_rows = 0;
  Trace trace;
};

/// Writes to a file, to stderr ("-"), or nowhere (""). From any thread.
class AccessLog {
 public:
  /// Throws Error where the file cannot be opened.
  explicit AccessLog(const std::string& target);
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;
  AccessLog(AccessLog&&) = delete;
  AccessLog& operator=(AccessLog&&) = delete;
  /// Writes what is left.
  ~AccessLog();

  /// Have a line written, soon.
  void add(const Facts& facts);
  /// Write what is left, and end the thread. Closing twice does nothing.
  void close();

 private:
  void write_all();
  /// Whether all of it could be written.
  [[nodiscard]] bool write(std::string_view bytes);

  int file_ = -1;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> lines_;
  std::size_t dropped_ = 0;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace plainconv::serve
