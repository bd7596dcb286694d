#include "session.hpp"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "bundle/json.hpp"
#include "coding.hpp"
#include "exchange.hpp"
#include "images.hpp"
#include "refusals.hpp"
#include "rest_codec.hpp"
#include "routes.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

namespace net = boost::asio;
template <class T>
using Awaitable = net::awaitable<T>;

constexpr std::size_t most_control = mebibyte;    // of a body that is no inference
constexpr std::size_t large = 64 * 1024UL;        // of JSON: longer than others should wait for
constexpr std::size_t large_copy = 4 * mebibyte;  // the same of bytes
constexpr std::size_t bytes_a_number = 8;         // in JSON
constexpr int unauthorized_status = 401;
constexpr int left_status = 499;

Answer answer_of(std::string body, std::string_view type = json_type) {
  return {.type = type, .reply = {std::move(body), {}, {}}};
}

/// The bytes of inputs that are copied out of shared memory, and of outputs that are copied into it, at most.
std::size_t copied_in(const Asked& asked) {
  std::size_t size = 0;
  for (const SentTensor& each : asked.held->request.inputs) {
    size += each.place ? each.place->extent.size : 0;
  }
  return size;
}

std::size_t copied_out(const Asked& asked) {
  std::size_t size = 0;
  for (const Chosen& each : asked.chosen) {
    size += each.place ? each.place->extent.size : 0;
  }
  return size;
}

/// A job in its queue, which it leaves at the latest with this.
class Queued {
 public:
  explicit Queued(const Asked& asked) : asked_(asked) { asked_.model->batcher().submit(asked_.job); }
  Queued(const Queued&) = delete;
  Queued& operator=(const Queued&) = delete;
  Queued(Queued&&) = delete;
  Queued& operator=(Queued&&) = delete;
  ~Queued() { asked_.model->batcher().abandon(asked_.job); }

  [[nodiscard]] bool is_done() const { return asked_.model->batcher().is_done(*asked_.job); }

 private:
  const Asked& asked_;
};

class Session {
 public:
  Session(std::shared_ptr<Wire> wire, Shared& shared, Pools& pools)
      : exchange_(std::move(wire), shared.service.options()),
        shared_(shared),
        service_(shared.service),
        pools_(pools) {}

  Awaitable<void> run() {
    bool goes_on = co_await exchange_.begin();
    while (goes_on) {
      std::optional<Answer> refused;
      try {
        goes_on = co_await exchange_.next_head();
      } catch (const Refused& error) {
        refused = answer_of(error);
      }
      if (goes_on) {
        goes_on = co_await answer(std::move(refused));
      }
    }
  }

 private:
  [[nodiscard]] const Head& head() const { return exchange_.head(); }

  /// Answer the request whose head was read; what is none is `refused` already, and ends the connection. Whether that
  /// goes on.
  Awaitable<bool> answer(std::optional<Answer> refused) {
    std::optional<Counted> under_way(std::in_place, shared_.under_way, &shared_.handled);
    const auto start = Clock::now();
    const bool is_request = !refused;
    facts_ = Facts{};
    facts_.method = head().method;
    facts_.path = head().path;
    facts_.trace = trace_of(head().traceparent, head().tracestate);
    Answer answer = refused ? *std::move(refused) : Answer{};
    try {
      if (is_request) {
        answer = co_await routed();
      }
    } catch (const std::exception& error) {
      answer = answer_of(refusal_of(error, shared_.complain));
    }
    facts_.status = answer.status;
    facts_.bytes_out = answer.size();
    const bool closes = !is_request || head().closes || exchange_.has_body_left() || shared_.draining;
    bool is_sound = answer.status != left_status;
    if (is_sound) {
      is_sound = co_await exchange_.send(answer, closes);
    }
    room_.reset();
    record(start);
    under_way.reset();
    if (is_sound && closes) {
      co_await exchange_.linger(is_request && answer.status != unauthorized_status);
    }
    co_return is_sound && !closes;
  }

  Awaitable<Answer> routed() {
    const std::string& path = head().path;
    if (path != "/v2/health/live" && path != "/v2/health/ready") {  // what a probe may ask
      shared_.bearer.check(head().authorization);
    }
    const Route route = route_of(head().method, path);
    switch (route.endpoint) {
      case Endpoint::server: co_return answer_of(service_.server_metadata());
      case Endpoint::live: co_return answer_of(R"({"live":true})");
      case Endpoint::ready:
        if (!shared_.is_ready()) {
          throw unavailable("the server is not ready");
        }
        co_return answer_of(R"({"ready":true})");
      case Endpoint::models: co_return answer_of(service_.models());
      case Endpoint::model: co_return answer_of(service_.model_metadata(route.model, route.version));
      case Endpoint::model_ready: {
        std::string ready = service_.model_ready(route.model, route.version);
        if (shared_.draining) {
          throw unavailable("the model is not loaded");
        }
        co_return answer_of(std::move(ready));
      }
      case Endpoint::config: co_return answer_of(service_.config(route.model, route.version));
      case Endpoint::statistics: co_return answer_of(service_.statistics(route.model, route.version));
      case Endpoint::metrics: co_return answer_of(service_.metrics_text(), metrics_type);
      case Endpoint::infer: co_return co_await infer(route);
      case Endpoint::regions: co_return answer_of(service_.shared_memory_status(route.model));
      default: co_return co_await control(route);
    }
  }

  Awaitable<Answer> infer(const Route& route) {
    const std::size_t max_body = service_.options().max_body;
    const auto coding = coding_of(head().content_encoding);
    const std::size_t most = checked_length(max_body);
    const auto json_length = header_length(head().json_length, coding.empty() ? most : max_body);
    room_.emplace(service_, exchange_.wire()->peer());
    Body body = co_await exchange_.read_body(coding.empty() ? json_length.value_or(0) : 0, *room_);
    facts_.bytes_in = body.bytes.size();
    if (!coding.empty()) {
      body = co_await in(pools_.codec,
                         [&] { return decompressed(body.bytes, coding, max_body, json_length.value_or(0)); });
      room_->grow(body.bytes.size());
    }
    (void)header_length(head().json_length, body.bytes.size());
    const auto start = Clock::now();
    try {
      if (is_image(head().content_type)) {
        const auto image = co_await in(pools_.codec, [&] { return read_image(service_, route, body, *room_, facts_); });
        co_await computed(image.asked);
        service_.succeeded(image.asked, facts_);
        co_return answer_of(co_await in(pools_.codec, [&] { return answer_of_image(image); }));
      }
      const std::size_t json = json_length.value_or(body.bytes.size());
      const auto read = [&] { return service_.read(route.model, route.version, std::move(body), json_length, facts_); };
      Asked asked = co_await by_size(json > large, read);
      co_await by_size(copied_in(asked) > large_copy, [&] { service_.prepare(asked, *room_); });
      co_await computed(asked);
      co_await by_size(copied_out(asked) > large_copy, [&] { service_.put(asked); });
      service_.succeeded(asked, facts_);
      co_return co_await encoded(asked);
    } catch (const Refused& refused) {
      service_.metrics().failed(facts_.model.value_or(""), refused.reason(), Clock::now() - start);
      throw;
    }
  }

  /// Wait until the queue is done with a request. Throws Refused.
  Awaitable<void> computed(const Asked& asked) {
    const Counted computing(shared_.computing);
    const auto& wire = exchange_.wire();
    asked.job->when_done = [executor = wire->executor(), weak = std::weak_ptr<Wire>(wire)] {
      net::post(executor, [weak] {
        if (const auto still = weak.lock()) {
          still->wake();
        }
      });
    };
    const Queued queued(asked);
    while (!queued.is_done()) {
      const Seconds left_time = asked.job->deadline - Clock::now();
      if (left_time.count() <= 0) {
        throw late(text("the answer was not there within ", in_words(asked.job->timeout), " s"));
      }
      co_await wire->pause(std::min(left_time, ask_every));
      if (!queued.is_done() && wire->is_left()) {
        throw left("the sender left before the answer was there");
      }
    }
  }

  Awaitable<Answer> encoded(const Asked& asked) {
    Answer answer;
    std::size_t size = 0;
    for (const SentOutput& each : Service::outputs(asked)) {
      size += each.binary || each.place != nullptr ? 0 : each.size / size_of(each.dtype) * bytes_a_number;
    }
    answer.reply = co_await by_size(size > large, [&] { return Service::reply(asked); });
    Reply& reply = answer.reply;
    if (!reply.tensors.empty()) {
      answer.type = "application/octet-stream";
      answer.headers = text("Inference-Header-Content-Length: ", reply.json.size(), "\r\n");
    }
    const auto coding = wanted_coding(head().accept_encoding);
    if (!coding.empty() && answer.size() > least_compressed) {
      std::vector<std::string_view> pieces = {reply.json};
      for (const auto tensor : reply.tensors) {
        // NOLINTNEXTLINE(*-reinterpret-cast): bytes are bytes
        pieces.emplace_back(reinterpret_cast<const char*>(tensor.data()), tensor.size());
      }
      std::string smaller = co_await in(pools_.codec, [&] { return compressed(pieces, coding); });
      reply = Reply{std::move(smaller), {}, {}};
      answer.headers += text("Content-Encoding: ", coding, "\r\nVary: Accept-Encoding\r\n");
    }
    room_->hold(answer.size());
    co_return answer;
  }

  /// Listing, loading and unloading models; registering and leaving regions of shared memory.
  Awaitable<Answer> control(const Route& route) {
    const bool is_region = route.endpoint == Endpoint::add_region || route.endpoint == Endpoint::remove_region;
    if (is_region) {
      (void)service_.regions();
    } else {
      service_.check_repository();
    }
    if (!coding_of(head().content_encoding).empty()) {
      throw bad_request(text("the body has content-encoding ", head().content_encoding, "; send it as it is"));
    }
    (void)checked_length(most_control);
    room_.emplace(service_, exchange_.wire()->peer());
    const Body body = co_await exchange_.read_body(0, *room_);
    const json::Value asked = object_of(body.bytes);
    switch (route.endpoint) {
      case Endpoint::add_region:
        service_.regions().add(route.model, json::find(asked, "key"), json::find(asked, "offset"),
                               json::find(asked, "byte_size"));
        co_return answer_of("{}");
      case Endpoint::remove_region: service_.regions().remove(route.model); co_return answer_of("{}");
      case Endpoint::index: {
        const json::Value* ready = json::find(asked, "ready");
        const auto* flag = ready == nullptr ? nullptr : std::get_if<bool>(ready);
        const bool ready_only = flag != nullptr && *flag;
        std::string rows = co_await in(pools_.control, [&] { return service_.index(ready_only); });
        co_return answer_of(std::move(rows));
      }
      case Endpoint::unload:
        co_await in(pools_.control, [&] { service_.store().unload(route.model); });
        co_return answer_of(text(R"({"name":)", json_text(route.model), R"(,"unload":true})"));
      default: break;
    }
    const json::Value* parameters = json::find(asked, "parameters");
    const auto* members = parameters == nullptr ? nullptr : std::get_if<json::Object>(parameters);
    if (!is_null(parameters) && (members == nullptr || !members->empty())) {
      throw bad_request("loading takes no parameters here: a model is what its bundle says; leave them out");
    }
    co_await in(pools_.control, [&] { service_.store().load(route.model); });
    co_return answer_of(text(R"({"name":)", json_text(route.model), R"(,"load":true})"));
  }

  /// What the body may have: what its head announces. Throws Refused beyond `limit`.
  std::size_t checked_length(std::size_t limit) const {
    if (head().length.value_or(0) > limit) {
      throw too_large(text("the request's body is larger than the ", limit, " bytes that this server takes"));
    }
    return head().length.value_or(limit);
  }

  /// What `work` gives, by another thread where it `is_long`.
  template <class F>
  Awaitable<std::invoke_result_t<F>> by_size(bool is_long, F work) {
    if (is_long) {
      co_return co_await in(pools_.codec, std::move(work));
    }
    co_return work();
  }

  /// What `work` gives, by a thread of the pool: it may take long.
  template <class F>
  static Awaitable<std::invoke_result_t<F>> in(net::thread_pool& pool, F work) {
    using Result = std::invoke_result_t<F>;
    auto run = [&work]() -> Awaitable<Result> { co_return work(); };
    co_return co_await net::co_spawn(pool, std::move(run), net::use_awaitable);
  }

  void record(Clock::time_point start) {
    facts_.took = Clock::now() - start;
    facts_.client = exchange_.wire()->peer();
    service_.metrics().answered("http", std::to_string(facts_.status));
    shared_.log.add(facts_);
  }

  Exchange exchange_;
  Shared& shared_;
  Service& service_;
  Pools& pools_;
  std::optional<Service::Room> room_;
  Facts facts_;
};

}  // namespace

Awaitable<void> serve_connection(std::shared_ptr<Wire> wire, Shared& shared, Pools& pools) {
  Session session(std::move(wire), shared, pools);
  co_await session.run();
}

}  // namespace plainconv::serve
