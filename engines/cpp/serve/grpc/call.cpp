#include "grpc/call.hpp"

#include <array>
#include <utility>

#include "grpc/codec.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve::rpc {
namespace {

struct Row {
  grpc::StatusCode code;
  std::string_view name;
  std::array<int, 3> http;  // the statuses that mean the same
};

constexpr std::array statuses = {
    Row{grpc::OK, "OK", {200}},
    Row{grpc::INVALID_ARGUMENT, "INVALID_ARGUMENT", {400}},
    Row{grpc::UNAUTHENTICATED, "UNAUTHENTICATED", {401}},
    Row{grpc::PERMISSION_DENIED, "PERMISSION_DENIED", {403}},
    Row{grpc::NOT_FOUND, "NOT_FOUND", {404}},
    Row{grpc::ALREADY_EXISTS, "ALREADY_EXISTS", {409}},
    Row{grpc::DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", {408, 504}},
    Row{grpc::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED", {413, 429}},
    Row{grpc::CANCELLED, "CANCELLED", {499}},
    Row{grpc::UNAVAILABLE, "UNAVAILABLE", {503}},
    Row{grpc::INTERNAL, "INTERNAL", {500}},
};

std::string_view name_of(grpc::StatusCode code) {
  const auto* found = std::ranges::find(statuses, code, &Row::code);
  return found == statuses.end() ? "UNKNOWN" : found->name;
}

/// What the metadata say for `key`, where it is there once.
std::optional<std::string_view> said(const Context& context, const grpc::string_ref& key) {
  const auto& all = context.client_metadata();
  if (all.count(key) != 1) {
    return std::nullopt;
  }
  const auto& value = all.find(key)->second;
  return std::string_view(value.data(), value.size());
}

}  // namespace

Front::Front(Shared& all)
    : shared(all),
      guests(service().options().max_connections, most_message(service().options()),
             service().options().max_pending - service().options().max_pending / kept) {}

std::vector<std::shared_ptr<Call>> Front::now() {
  std::vector<std::shared_ptr<Call>> all;
  const std::scoped_lock lock(mutex);
  for (const auto& [key, call] : calls) {
    all.push_back(call);
  }
  return all;
}

std::size_t Front::count() {
  const std::scoped_lock lock(mutex);
  return calls.size();
}

grpc::Status status_of(const Refused& refused) {
  const auto* found = std::ranges::find_if(
      statuses, [&](const Row& row) { return std::ranges::find(row.http, refused.status()) != row.http.end(); });
  return {found == statuses.end() ? grpc::INTERNAL : found->code, refused.what()};
}

Call::Call(Front& front, Context& context, bool is_open)
    : front_(front), context_(context), peer_(address_of(context.peer())), client_(context.peer()), is_open_(is_open) {}

void Call::begin() {
  try {
    check_token();
    bool is_held = false;
    if (!is_stream()) {
      const std::scoped_lock lock(front_.mutex);
      is_held = front_.is_leaving && !front_.is_gone;
      if (front_.is_gone || (!is_held && front_.shared.refusing && !is_open_)) {
        throw about_to_stop();
      }
    }
    if (!is_held) {
      start();
    }
  } catch (const std::exception& error) {
    end(refusal_of(error, front_.shared.complain));
  }
}

void Call::check_token() const {
  if (!is_open_) {
    front_.shared.bearer.check(said(context_, "authorization"));
  }
}

void Call::check_time(Clock::time_point now) const {
  const Seconds timeout = front_.service().options().timeout;
  if (now - start_ > timeout) {
    throw slow(text("the request's message was not there within ", in_words(timeout), " s"));
  }
}

void Call::end(const grpc::Status& status, const grpc::ByteBuffer* answer, Facts facts) {
  {
    const std::scoped_lock lock(mutex_);
    if (std::exchange(has_ended_, true)) {
      return;
    }
  }
  const std::string& method = context_.method();
  facts.method = method.substr(method.rfind('/') + 1);
  facts.grpc_status = name_of(status.error_code());
  facts.client = client_;
  facts.trace = trace_of(said(context_, "traceparent").value_or(""), said(context_, "tracestate").value_or(""));
  facts.took = Clock::now() - start_;
  front_.service().metrics().answered("grpc", facts.grpc_status);
  front_.shared.log.add(facts);
  if (answer != nullptr) {
    answer_ = *answer;
    StartWriteAndFinish(&answer_, {}, status);
  } else {
    Finish(status);
  }
}

void Call::OnDone() {
  front_.guests.ended(client_, is_large(), context_.IsCancelled());
  std::shared_ptr<Call> self;
  const std::scoped_lock lock(front_.mutex);
  const auto found = front_.calls.find(this);
  if (found != front_.calls.end()) {
    self = std::move(found->second);
    front_.calls.erase(found);
  }
}

std::shared_ptr<Call> call_of(Front& front, Context& context) {
  auto call = unary_call_of(front, context);
  return call ? call : stream_call_of(front, context);
}

}  // namespace plainconv::serve::rpc
