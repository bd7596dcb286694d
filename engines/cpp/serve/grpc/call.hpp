// One call of gRPC: a method by its name, from its metadata to its status; and what all calls share.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include <boost/asio/thread_pool.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "grpc/guests.hpp"
#include "refusals.hpp"
#include "shared.hpp"

namespace plainconv::serve::rpc {

class Call;
using Context = grpc::GenericCallbackServerContext;

/// What all calls share. From any thread.
struct Front {
  Shared& shared;
  boost::asio::thread_pool answers{2};  // of what queues are done with
  boost::asio::thread_pool control{1};  // loading models takes long
  std::mutex mutex;
  std::map<Call*, std::shared_ptr<Call>> calls;  // those that have not ended
  bool is_leaving = false;                       // the good-bye is being said: who asks is held until it was
  bool is_gone = false;
  Guests guests;

  explicit Front(Shared& all);

  [[nodiscard]] Service& service() const noexcept { return shared.service; }
  /// The calls that there are now.
  [[nodiscard]] std::vector<std::shared_ptr<Call>> now();
  [[nodiscard]] std::size_t count();
};

[[nodiscard]] inline Refused about_to_stop() { return unavailable("the server is about to stop"); }

/// gRPC's status for a refusal.
[[nodiscard]] grpc::Status status_of(const Refused& refused);

/// It ends once, with `end`, and lives until gRPC is done with it and nobody else has it.
class Call : public grpc::ServerGenericBidiReactor, public std::enable_shared_from_this<Call> {
 public:
  /// Of a method that is `open` to those without a token as well, and in a server that is about to stop.
  Call(Front& front, Context& context, bool is_open);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  Call(Call&&) = delete;
  Call& operator=(Call&&) = delete;
  ~Call() override = default;

  /// Whether its messages may be large.
  [[nodiscard]] bool is_large() const noexcept { return !is_open_; }
  /// Begin, or refuse, or hold it.
  void begin();
  /// Called every now and then: for what is late, or has changed.
  virtual void look(Clock::time_point now) = 0;
  /// Called once the good-bye has been said.
  virtual void leave() = 0;

  void OnCancel() override { left(); }
  void OnDone() override;

 protected:
  [[nodiscard]] virtual bool is_stream() const noexcept { return false; }
  virtual void start() = 0;
  /// The sender is gone.
  virtual void left() = 0;
  /// End it, with an answer or without, and write what is known of it to the log.
  void end(const grpc::Status& status, const grpc::ByteBuffer* answer = nullptr, Facts facts = {});
  void end(const Refused& refused, Facts facts = {}) { end(status_of(refused), nullptr, std::move(facts)); }
  /// Throws Refused where the message has not been there in time.
  void check_time(Clock::time_point now) const;
  /// A message is there.
  void moved() { front_.guests.moved(client_); }

  Front& front_;
  Context& context_;
  const std::string peer_;  // the sender's address, without its port

 private:
  void check_token() const;

  const std::string client_;  // the sender, as gRPC names it; of a call that gRPC ends, it soon does not
  const bool is_open_;
  const Clock::time_point start_ = Clock::now();
  std::mutex mutex_;
  bool has_ended_ = false;
  grpc::ByteBuffer answer_;
};

/// What answers a method; null where there is no such method.
[[nodiscard]] std::shared_ptr<Call> call_of(Front& front, Context& context);
[[nodiscard]] std::shared_ptr<Call> unary_call_of(Front& front, Context& context);
[[nodiscard]] std::shared_ptr<Call> stream_call_of(Front& front, Context& context);

}  // namespace plainconv::serve::rpc
