#include "access_log.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <ctime>
#include <system_error>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::size_t most_lines = 65536;
constexpr std::size_t longest_path = 2048;

/// "2026-01-31T12:00:00.123+00:00"
std::string now() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  const auto all = std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
  const std::time_t seconds = all / 1000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  std::array<char, 32> date{};
  const std::size_t size = std::strftime(date.data(), date.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  const std::string rest = std::to_string(all % 1000);
  return text(std::string_view(date.data(), size), ".", std::string(3 - rest.size(), '0'), rest, "+00:00");
}

std::string milliseconds_of(Seconds seconds) {
  constexpr double milliseconds = 1e3;
  std::array<char, 64> digits{};
  return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), seconds.count() * milliseconds,
                                       std::chars_format::fixed, 3)
                             .ptr};
}

std::string line_of(const Facts& facts) {
  const bool is_http = facts.grpc_status.empty();
  std::string all = text(R"({"time": ")", now(), R"(", "protocol": ")", is_http ? "http" : "grpc", R"(", "method": )",
                         json_text(facts.method));
  all += is_http ? text(R"(, "path": )", json_text(cut(facts.path, longest_path)), R"(, "status": )", facts.status)
                 : text(R"(, "status": ")", facts.grpc_status, "\"");
  all += text(R"(, "ms": )", milliseconds_of(facts.took), R"(, "client": )", json_text(facts.client));
  all += is_http ? text(R"(, "bytes_out": )", facts.bytes_out) : "";
  if (!facts.trace.trace_id.empty()) {
    all += text(R"(, "trace_id": ")", facts.trace.trace_id, R"(", "span_id": ")", facts.trace.span_id, "\"");
    all += facts.trace.state.empty() ? "" : text(R"(, "tracestate": )", json_text(facts.trace.state));
  }
  if (facts.bytes_in) {
    all += text(R"(, "bytes_in": )", *facts.bytes_in);
  }
  if (facts.model) {
    all += text(R"(, "model": )", json_text(*facts.model), R"(, "id": )", json_text(facts.id));
  }
  if (facts.rows != 0) {
    all += text(R"(, "rows": )", facts.rows, R"(, "queue_ms": )", milliseconds_of(facts.queued), R"(, "compute_ms": )",
                milliseconds_of(facts.computed), R"(, "batch_rows": )", facts.batch_rows);
  }
  return all + "}\n";
}

}  // namespace

Trace trace_of(std::string_view parent, std::string_view state) {
  constexpr std::size_t most_state = 512;
  const auto is_hexadecimal = [&](std::size_t at, std::size_t size) {  // in small letters, and not all zeros
    const auto part = parent.substr(at, size);
    return part.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  };
  const auto is_some = [&](std::size_t at, std::size_t size) {
    return is_hexadecimal(at, size) && parent.substr(at, size).find_first_not_of('0') != std::string_view::npos;
  };
  // version-trace-span-flags: 2, 32, 16 and 2 digits; more may follow in a later version
  constexpr std::size_t trace_at = 3;
  constexpr std::size_t span_at = 36;
  constexpr std::size_t flags_at = 53;
  constexpr std::size_t size = 55;
  if (parent.size() < size || (parent.size() > size && parent[size] != '-') || parent[trace_at - 1] != '-' ||
      parent[span_at - 1] != '-' || parent[flags_at - 1] != '-' || parent.starts_with("ff") || !is_hexadecimal(0, 2) ||
      !is_some(trace_at, 32) || !is_some(span_at, 16) || !is_hexadecimal(flags_at, 2)) {
    return {};
  }
  const bool is_printable =
      state.size() <= most_state && std::ranges::all_of(state, [](char c) { return c >= ' ' && c <= '~'; });
  return {std::string(parent.substr(trace_at, 32)), std::string(parent.substr(span_at, 16)),
          is_printable ? std::string(state) : ""};
}

AccessLog::AccessLog(const std::string& target) {
  if (target.empty()) {
    return;
  }
  constexpr int mode = 0666;
  // Without waiting: a pipe may have no reader yet.
  constexpr int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK;
  file_ = target == "-" ? ::dup(STDERR_FILENO) : ::open(target.c_str(), flags, mode);  // NOLINT(*-vararg)
  if (file_ < 0) {
    throw Error(text(target, ": no access log can be written there (", std::generic_category().message(errno), ")"));
  }
  thread_ = std::thread([this] { write_all(); });
}

AccessLog::~AccessLog() {
  close();
  if (file_ >= 0) {
    ::close(file_);
  }
}

void AccessLog::add(const Facts& facts) {
  if (file_ < 0) {
    return;
  }
  std::string line = line_of(facts);
  const std::scoped_lock lock(mutex_);
  if (lines_.size() < most_lines) {
    lines_.push_back(std::move(line));
  } else {
    ++dropped_;
  }
}

void AccessLog::close() {
  {
    const std::scoped_lock lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

bool AccessLog::write(std::string_view bytes) {
  constexpr int every_ms = 100;
  constexpr int most_rounds = 50;      // that a reader who does not read holds up the end
  constexpr std::size_t piece = 4096;  // what a pipe with room takes at once
  int rounds = 0;
  while (!bytes.empty()) {
    pollfd ready{file_, POLLOUT, 0};
    const int found = ::poll(&ready, 1, every_ms);
    if (found == 0) {
      const std::scoped_lock lock(mutex_);
      rounds += closing_ ? 1 : 0;
    }
    const ssize_t count = found > 0 ? ::write(file_, bytes.data(), std::min(piece, bytes.size())) : 0;
    if (rounds == most_rounds || (found != 0 && count < 0 && errno != EINTR)) {
      return false;  // a full disk, a reader that left: requests matter more
    }
    bytes.remove_prefix(count < 0 ? 0 : static_cast<std::size_t>(count));
  }
  return true;
}

void AccessLog::write_all() {
  constexpr std::chrono::milliseconds every(100);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait_for(lock, every, [this] { return closing_; });
    const bool is_last = closing_;
    std::vector<std::string> lines;
    lines.swap(lines_);
    if (dropped_ != 0) {
      lines.push_back(text(R"({"time": ")", now(), R"(", "dropped_lines": )", dropped_, "}\n"));
      dropped_ = 0;
    }
    lock.unlock();
    const bool all = lines.empty() || write(joined(lines, ""));
    lock.lock();
    dropped_ += all ? 0 : lines.size();
    if (is_last) {
      return;
    }
  }
}

}  // namespace plainconv::serve
