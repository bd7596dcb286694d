#include "session.hpp"

#include <httplib.h>

#include <cstring>
#include <new>
#include <vector>

#include "refusals.hpp"
#include "rest_codec.hpp"
#include "routes.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr Seconds idle(65);          // longer than proxies keep an idle connection
constexpr Seconds head_timeout(30);  // to send a head, once it has begun
constexpr std::string_view json_type = "application/json";

/// What cpp-httplib reads, the start of a head, and where it writes to.
class Exchange : public httplib::Stream {
 public:
  Exchange(Connection& connection, std::string head) : connection_(connection), head_(std::move(head)) {}

  [[nodiscard]] bool is_readable() const override { return true; }
  [[nodiscard]] bool is_writable() const override { return true; }
  ssize_t read(char* to, std::size_t size) override {
    const std::size_t count = std::min(size, head_.size() - read_);
    std::memcpy(to, head_.data() + read_, count);
    read_ += count;
    return static_cast<ssize_t>(count);
  }
  /// What is small waits for what follows: one packet in the place of two.
  ssize_t write(const char* from, std::size_t size) override {
    constexpr std::size_t small = 4096;
    if (size <= small) {
      waiting_.append(from, size);
      return static_cast<ssize_t>(size);
    }
    return send({from, size}) ? static_cast<ssize_t>(size) : -1;
  }
  void get_remote_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  void get_local_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  [[nodiscard]] socket_t socket() const override { return 0; }

  /// Send what waits. False where the other side does not take it, or took not what was before.
  bool flush() { return send({}); }
  /// Send nothing of what follows.
  void drop() noexcept { is_sound_ = false; }
  void set_deadline(Clock::time_point deadline) noexcept { deadline_ = deadline; }

 private:
  bool send(std::string_view more) {
    is_sound_ = is_sound_ && connection_.send(std::array{std::string_view(waiting_), more}, deadline_);
    waiting_.clear();
    return is_sound_;
  }

  Connection& connection_;
  std::string head_;
  std::size_t read_ = 0;
  std::string waiting_;
  bool is_sound_ = true;
  Clock::time_point deadline_ = Clock::time_point::max();
};

/// Counts a request as under way.
class UnderWay {
 public:
  explicit UnderWay(Shared& shared) : shared_(shared) { ++shared_.under_way; }
  UnderWay(const UnderWay&) = delete;
  UnderWay& operator=(const UnderWay&) = delete;
  UnderWay(UnderWay&&) = delete;
  UnderWay& operator=(UnderWay&&) = delete;
  ~UnderWay() {
    ++shared_.handled;
    --shared_.under_way;
  }

 private:
  Shared& shared_;
};

class Session : private httplib::Server {
 public:
  Session(Connection connection, Shared& shared)
      : connection_(std::move(connection)), shared_(shared), peer_(connection_.peer()) {
    svr_sock_ = 0;  // not closed: else cpp-httplib would not send all of an answer
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      handle(request, response);
      return HandlerResponse::Handled;
    });
    set_error_handler(Handler([this](const httplib::Request&, httplib::Response& response) {
      if (response.body.empty()) {  // it is its own answer: the request is nothing that it knows
        refuse(response, bad_request("the request is none that this server knows"));
      }
    }));
    set_post_routing_handler([this](const httplib::Request&, httplib::Response& response) { finish_head(response); });
  }

  void run() {
    while (read_head() && answer()) {
    }
  }

 private:
  /// Whether there is another request.
  bool read_head() {
    try {
      const auto head = connection_.next_head(idle, head_timeout);
      if (!head) {
        return false;
      }
      head_text_ = *head;
      head_ = head_of(head_text_);
      return true;
    } catch (const Refused& refused) {
      const std::string all = whole_refusal(refused.status(), refused.what());
      connection_.send(std::array{std::string_view(all)}, Clock::now() + std::chrono::seconds(1));
      facts_ = Facts{};
      facts_.status = refused.status();
      record(Clock::now());
      connection_.linger();
      return false;
    }
  }

  /// Answer the request whose head was read. Whether the connection goes on.
  bool answer() {
    const UnderWay under_way(shared_);
    const auto start = Clock::now();
    has_body_left_ = head_.is_chunked || head_.content_length.value_or("0") != "0";
    facts_ = Facts{};
    facts_.method = head_.method;
    Exchange exchange(connection_, text(head_.request_line, "\r\n\r\n"));
    exchange_ = &exchange;
    const bool is_sound = processed(*this, exchange) && exchange.flush();
    exchange_ = nullptr;
    record(start);
    if (is_sound && closes_ && has_body_left_) {
      connection_.linger();
    }
    return is_sound && !closes_;
  }

  /// Have cpp-httplib handle the request. From 0.18 on it wants the addresses of both sides.
  template <class Self>
  static bool processed(Self& self, Exchange& exchange) {
    bool closed = false;
    if constexpr (requires { self.process_request(exchange, false, closed, nullptr); }) {
      return self.process_request(exchange, false, closed, nullptr);
    } else {
      return self.process_request(exchange, self.peer_, 0, "", 0, false, closed, nullptr);
    }
  }

  void handle(const httplib::Request& request, httplib::Response& response) noexcept {
    facts_.path = request.path;
    try {
      try {
        answer_route(request, response);
      } catch (const Refused& refused) {
        refuse(response, refused);
      } catch (const std::bad_alloc&) {
        refuse(response, failed("the server has too little memory for this request; send a smaller batch"));
      } catch (const std::exception& error) {
        shared_.complain(text("a request met a fault of the server: ", error.what()));
        refuse(response, failed("the server failed on this request"));
      }
    } catch (...) {  // no memory for the answer either
      exchange_->drop();
      response.status = 500;
    }
  }

  void answer_route(const httplib::Request& request, httplib::Response& response) {
    if (request.path != "/v2/health/live" && request.path != "/v2/health/ready") {  // what a probe may ask
      shared_.bearer.check(head_.authorization);
    }
    const Route route = route_of(head_.method, request.path);
    Service& service = shared_.service;
    switch (route.endpoint) {
      case Endpoint::server: give(response, Service::server_metadata()); return;
      case Endpoint::live: give(response, R"({"live":true})"); return;
      case Endpoint::ready:
        if (shared_.draining || service.is_lost()) {
          throw unavailable("the server is not ready");
        }
        give(response, R"({"ready":true})");
        return;
      case Endpoint::models: give(response, text(R"({"models":[)", json_text(service.name()), "]}")); return;
      case Endpoint::model:
        service.check(route.model, route.version);
        give(response, service.model_metadata());
        return;
      case Endpoint::model_ready:
        service.check(route.model, route.version);
        if (shared_.draining || service.is_lost()) {
          throw unavailable("the model is not loaded");
        }
        give(response, text(R"({"name":)", json_text(service.name()), R"(,"ready":true})"));
        return;
      case Endpoint::repository: throw forbidden("this server does not offer the repository API");
      case Endpoint::metrics: give(response, service.metrics_text(), metrics_type); return;
      case Endpoint::infer: infer(route, response); return;
    }
  }

  void infer(const Route& route, httplib::Response& response) {
    Service& service = shared_.service;
    const ServeOptions& options = shared_.options;
    const auto length = body_length(head_, options.max_body);
    const Service::Room room(service, length.value_or(options.max_body));
    const auto json_length = header_length(head_.json_length, length.value_or(options.max_body));
    if (head_.expects_continue) {
      connection_.send(std::array{std::string_view("HTTP/1.1 100 Continue\r\n\r\n")}, Clock::now() + head_timeout_);
    }
    Body body = connection_.read_body(length, json_length.value_or(0), options.max_body, options.timeout);
    has_body_left_ = false;
    if (!length) {
      (void)header_length(head_.json_length, body.bytes.size());
    }
    auto reply = std::make_shared<Reply>(service.infer(
        route.model, route.version.value_or(""), std::move(body), json_length, [this] { return connection_.is_left(); },
        facts_));
    if (reply->tensors.empty()) {
      give(response, std::move(reply->json));
      return;
    }
    std::size_t size = reply->json.size();
    for (const auto tensor : reply->tensors) {
      size += tensor.size();
    }
    facts_.bytes_out = size;
    response.status = 200;
    response.set_header(std::string(header_length_name), std::to_string(reply->json.size()));
    response.set_content_provider(size, "application/octet-stream",
                                  [reply](std::size_t /*from*/, std::size_t /*length*/, httplib::DataSink& sink) {
                                    bool is_sound = sink.write(reply->json.data(), reply->json.size());
                                    for (const auto tensor : reply->tensors) {
                                      // NOLINTNEXTLINE(*-reinterpret-cast): bytes are bytes
                                      is_sound = is_sound && sink.write(reinterpret_cast<const char*>(tensor.data()),
                                                                        tensor.size());
                                    }
                                    return is_sound;
                                  });
  }

  void give(httplib::Response& response, std::string body, std::string_view type = json_type) {
    facts_.bytes_out = body.size();
    response.status = 200;
    response.body = std::move(body);
    response.set_header("Content-Type", std::string(type));
  }

  void refuse(httplib::Response& response, const Refused& refused) {
    response.status = refused.status();
    response.body = error_json(refused.what());
    facts_.bytes_out = response.body.size();
    response.set_header("Content-Type", std::string(json_type));
    if (refused.status() == 429 || refused.status() == 503) {
      response.set_header("Retry-After", "1");
    }
    if (refused.status() == 401) {
      response.set_header("WWW-Authenticate", "Bearer");
    }
    if (refused.status() == 499) {  // nobody reads it
      exchange_->drop();
    }
  }

  void finish_head(httplib::Response& response) {
    facts_.status = response.status;
    closes_ = head_.closes || has_body_left_ || shared_.draining;
    response.headers.erase("Keep-Alive");
    response.headers.erase("Connection");
    if (closes_) {
      response.set_header("Connection", "close");
    }
    const std::chrono::seconds more(facts_.bytes_out / mebibyte);
    exchange_->set_deadline(Clock::now() + std::chrono::duration_cast<Clock::duration>(shared_.options.timeout) + more);
  }

  void record(Clock::time_point start) {
    facts_.took = Clock::now() - start;
    facts_.client = peer_;
    shared_.service.metrics().answered(facts_.status);
    shared_.log.add(facts_);
  }

  static constexpr auto head_timeout_ = std::chrono::seconds(30);
  Connection connection_;
  Shared& shared_;
  std::string peer_;
  std::string head_text_;
  Head head_;  // views into its text
  Facts facts_;
  Exchange* exchange_ = nullptr;  // of the request that is being answered
  bool has_body_left_ = false;    // that was not read: what follows is no request
  bool closes_ = false;
};

}  // namespace

std::string error_json(std::string_view sentence) { return text(R"({"error": )", json_text(sentence), "}"); }

std::string whole_refusal(int status, std::string_view sentence) {
  const std::string body = error_json(sentence);
  const std::string_view more = status == 503 ? "Retry-After: 1\r\n" : "";
  return text("HTTP/1.1 ", status, " Refused\r\nContent-Type: ", json_type, "\r\nContent-Length: ", body.size(),
              "\r\nConnection: close\r\n", more, "\r\n", body);
}

void serve_connection(Connection connection, Shared& shared) { Session(std::move(connection), shared).run(); }

}  // namespace plainconv::serve
