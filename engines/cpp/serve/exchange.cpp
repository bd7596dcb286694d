#include "exchange.hpp"

#include <algorithm>
#include <array>
#include <boost/beast/http/status.hpp>
#include <cstring>
#include <span>
#include <vector>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr Seconds handshake_timeout(10);
constexpr Seconds head_timeout(30);             // to send a head, from the connection's begin or its own
constexpr Seconds idle(65);                     // between requests: longer than proxies keep an idle connection
constexpr Seconds linger_time(2);               // for an answer to arrive before its connection is cut
constexpr std::size_t head_piece = 4 * 1024UL;  // that an idle connection holds
constexpr std::size_t chunk_piece = 16 * 1024UL;
constexpr std::size_t body_piece = 256 * 1024UL;
constexpr std::size_t most_unread = 16 * mebibyte;  // of a body whose answer has been given, to a sender who may ask
constexpr std::size_t small = 16 * 1024UL;          // to copy is less than to send once more

std::string status_line(int status) {
  const auto reason =
      boost::beast::http::obsolete_reason(boost::beast::http::int_to_status(static_cast<unsigned>(status)));
  return text("HTTP/1.1 ", status, " ", std::string_view(reason.data(), reason.size()), "\r\n");
}

}  // namespace

std::size_t Answer::size() const noexcept {
  std::size_t all = reply.json.size();
  for (const auto tensor : reply.tensors) {
    all += tensor.size();
  }
  return all;
}

Answer answer_of(const Refused& refused) {
  constexpr int unauthorized_status = 401;
  constexpr int too_many_status = 429;
  constexpr int unavailable_status = 503;
  Answer answer;
  answer.status = refused.status();
  answer.reply.json = text(R"({"error": )", json_text(refused.what()), "}");
  if (answer.status == too_many_status || answer.status == unavailable_status) {
    answer.headers = "Retry-After: 1\r\n";
  }
  if (answer.status == unauthorized_status) {
    answer.headers = "WWW-Authenticate: Bearer\r\n";
  }
  if (!refused.allowed().empty()) {
    answer.headers = text("Allow: ", refused.allowed(), "\r\n");
  }
  return answer;
}

std::string whole_refusal(int status, std::string_view sentence) {
  const Answer answer = answer_of(Refused(status, "OTHER", std::string(sentence)));
  const std::string& body = answer.reply.json;
  return text(status_line(status), "Content-Type: ", json_type, "\r\nContent-Length: ", body.size(),
              "\r\nConnection: close\r\n", answer.headers, "\r\n", body);
}

Exchange::Awaitable<bool> Exchange::begin() {
  wire_->limit(handshake_timeout);
  co_return co_await wire_->shake_hands();
}

Exchange::Awaitable<bool> Exchange::next_head() {
  wire_->limit(is_kept_ ? idle : head_timeout);
  parser_.emplace(options_.max_body);
  for (bool has_begun = !is_kept_; true;) {
    buffer_.erase(0, parser_->read(buffer_));
    if (parser_->has_head()) {
      break;
    }
    if (!has_begun && (parser_->has_begun() || !buffer_.empty())) {
      has_begun = true;
      wire_->limit(head_timeout);
    }
    const bool has_more = co_await fill(head_piece);
    if (!has_more) {
      co_return false;
    }
  }
  has_body_left_ = head().length != 0;
  is_kept_ = true;
  co_return true;
}

Exchange::Awaitable<bool> Exchange::send(const Answer& answer, bool closes) {
  const std::size_t size = answer.size();
  std::string start = text(status_line(answer.status), "Content-Type: ", answer.type, "\r\nContent-Length: ", size,
                           "\r\n", answer.headers, closes ? "Connection: close\r\n\r\n" : "\r\n");
  std::vector<std::string_view> pieces = {start, answer.reply.json};
  if (head().method == "HEAD") {
    pieces = {start};  // with the length of the body alone
  } else if (answer.reply.json.size() <= small) {
    start += answer.reply.json;
    pieces = {start};
  }
  for (const auto tensor : answer.reply.tensors) {
    // NOLINTNEXTLINE(*-reinterpret-cast): bytes are bytes
    pieces.emplace_back(reinterpret_cast<const char*>(tensor.data()), tensor.size());
  }
  wire_->limit(options_.timeout + Seconds(static_cast<double>(size / mebibyte)));
  co_return co_await wire_->write(pieces);
}

Exchange::Awaitable<Body> Exchange::read_body(std::size_t aligned_at, Service::Room& room) {
  wire_->limit(options_.timeout);
  if (head().expects_continue) {
    const std::array<std::string_view, 1> go_on = {"HTTP/1.1 100 Continue\r\n\r\n"};
    (void)co_await wire_->write(go_on);
  }
  Body body;
  if (head().length) {
    body = body_of(*head().length, aligned_at);
    std::size_t end = std::min(body.bytes.size(), buffer_.size());
    room.grow(end);
    std::memcpy(body.bytes.data(), buffer_.data(), end);
    buffer_.erase(0, end);
    while (end < body.bytes.size()) {
      const std::size_t count =
          co_await wire_->read(body.bytes.subspan(end, std::min(body_piece, body.bytes.size() - end)));
      if (count == 0) {
        throw no_body();
      }
      room.grow(count);
      end += count;
    }
  } else {
    std::size_t held = 0;
    while (true) {
      buffer_.erase(0, parser_->read(buffer_));
      room.grow(parser_->body().size() - held);
      held = parser_->body().size();
      if (parser_->has_chunks()) {
        break;
      }
      const bool has_more = co_await fill(chunk_piece);
      if (!has_more) {
        throw no_body();
      }
    }
    body = body_of(held, std::min(aligned_at, held));
    std::memcpy(body.bytes.data(), parser_->body().data(), held);
  }
  has_body_left_ = false;
  co_return body;
}

Refused Exchange::no_body() const {
  return wire_->is_late() ? slow(text("the request's body was not there within ", in_words(options_.timeout), " s"))
                          : left("the sender left before its request was there");
}

Exchange::Awaitable<bool> Exchange::fill(std::size_t most) {
  const std::size_t size = buffer_.size();
  buffer_.resize(size + most);
  const std::size_t count = co_await wire_->read(std::as_writable_bytes(std::span(buffer_)).subspan(size));
  buffer_.resize(size + count);
  co_return count != 0;
}

Exchange::Awaitable<void> Exchange::linger(bool may_ask) {
  wire_->limit(linger_time);
  co_await wire_->end();
  if (may_ask) {
    std::vector<std::byte> thrown_away(chunk_piece);
    for (std::size_t all = 0, count = 1; count != 0 && all < most_unread; all += count) {
      count = co_await wire_->drop(thrown_away);
    }
    co_return;
  }
  while (!wire_->is_late() && !wire_->is_left()) {
    co_await wire_->pause(ask_every);
  }
}

}  // namespace plainconv::serve
