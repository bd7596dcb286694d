// One inference over gRPC, from the message of a request to that of its answer.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "grpc/call.hpp"
#include "grpc/codec.hpp"

namespace plainconv::serve::rpc {

/// It ends once: with an answer, refused, or given up. From any thread.
class Inference : public std::enable_shared_from_this<Inference> {
 public:
  using Done = std::function<void()>;

  /// Of a sender at `peer`; `done` is called once it has ended.
  Inference(Front& front, std::string peer, Done done)
      : front_(front), room_(front.service(), std::move(peer)), done_(std::move(done)) {}

  /// Begin with what was received, for who waits for it until `deadline`.
  void begin(grpc::ByteBuffer& sent, std::chrono::system_clock::time_point deadline);
  /// End it, if it has not ended.
  void give_up(const Refused& refused);
  /// Give it up where it is late.
  void look(Clock::time_point now);

  // Once it has ended:
  [[nodiscard]] bool has_ended() const noexcept { return has_ended_; }
  [[nodiscard]] const std::optional<Refused>& refused() const noexcept { return refused_; }
  [[nodiscard]] inference::ModelInferResponse& answer() noexcept { return answer_; }
  [[nodiscard]] const Facts& facts() const noexcept { return facts_; }

 private:
  void ask(grpc::ByteBuffer& sent, std::chrono::system_clock::time_point deadline);
  void finish();
  void refuse(const Refused& refused);
  /// Whether it had not ended before.
  bool take_end();
  void tell();

  Front& front_;
  Service::Room room_;
  Done done_;
  std::optional<Counted> under_way_;
  std::optional<Clock::time_point> asked_at_;  // the request could be read
  std::mutex mutex_;
  bool is_ending_ = false;
  std::atomic<bool> has_ended_ = false;
  Asked asked_;
  Facts facts_;
  std::optional<Refused> refused_;
  inference::ModelInferResponse answer_;
};

}  // namespace plainconv::serve::rpc
