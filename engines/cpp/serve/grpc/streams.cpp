// The methods that answer more than once.
#include <deque>
#include <utility>

#include "grpc/call.hpp"
#include "grpc/codec.hpp"
#include "grpc/health.hpp"
#include "grpc/inference.hpp"
#include "refusals.hpp"

namespace plainconv::serve::rpc {
namespace {

constexpr std::size_t at_once = 16;  // requests of one stream

/// Writes one message at a time, and ends after the last of them.
class Writing : public Call {
 public:
  using Call::Call;

  void OnWriteDone(bool ok) override {
    std::unique_lock lock(mutex_);
    is_writing_ = false;
    if (is_over_) {
      lock.unlock();
      end(status_);
    } else if (ok) {
      lock.unlock();
      wrote();
    }
  }

 protected:
  [[nodiscard]] bool is_stream() const noexcept override { return true; }
  virtual void wrote() = 0;
  /// Whether it is being written now.
  bool write(grpc::ByteBuffer message) {
    {
      const std::scoped_lock lock(mutex_);
      if (is_over_ || is_writing_) {
        return false;
      }
      is_writing_ = true;
      message_.Swap(&message);
    }
    StartWrite(&message_);
    return true;
  }
  void finish(const grpc::Status& status) {
    {
      const std::scoped_lock lock(mutex_);
      if (std::exchange(is_over_, true)) {
        return;
      }
      status_ = status;
      if (is_writing_) {
        return;
      }
    }
    end(status);
  }
  void left() override { finish(status_of(serve::left("the sender left"))); }
  void leave() override { finish(status_of(about_to_stop())); }

 private:
  std::mutex mutex_;
  bool is_writing_ = false;
  bool is_over_ = false;
  grpc::Status status_;
  grpc::ByteBuffer message_;
};

/// Answers each of a stream of requests, in their order, several at a time.
class Stream : public Writing {
 public:
  Stream(Front& front, Context& context) : Writing(front, context, false) {}

  void OnReadDone(bool ok) override {
    if (!ok || front_.shared.refusing) {
      std::unique_lock lock(mutex_);
      is_all_read_ = true;
      last_ = ok ? status_of(about_to_stop()) : grpc::Status::OK;
      lock.unlock();
      go_on();
      return;
    }
    moved();
    const auto request = std::make_shared<Inference>(front_, peer_, [this, self = shared_from_this()] { go_on(); });
    {
      const std::scoped_lock lock(mutex_);
      if (is_all_read_) {  // the sender left meanwhile
        return;
      }
      requests_.push_back(request);
    }
    request->begin(received_, context_.deadline());
    received_.Clear();
    {
      const std::scoped_lock lock(mutex_);
      is_reading_ = false;
    }
    go_on();
  }
  void look(Clock::time_point now) override {
    for (const auto& each : requests()) {
      each->look(now);
    }
  }
  void leave() override {
    {
      const std::scoped_lock lock(mutex_);
      is_all_read_ = true;
      last_ = status_of(about_to_stop());
    }
    go_on();
  }

 protected:
  void start() override {
    is_reading_ = true;
    StartRead(&received_);
  }
  void wrote() override {
    {
      const std::scoped_lock lock(mutex_);
      requests_.pop_front();
      is_answering_ = false;
    }
    go_on();
  }
  void left() override {
    {
      const std::scoped_lock lock(mutex_);
      is_all_read_ = true;
    }
    Writing::left();
    for (const auto& each : requests()) {
      each->give_up(serve::left("the sender left before the answer was there"));
    }
  }

 private:
  std::deque<std::shared_ptr<Inference>> requests() {
    const std::scoped_lock lock(mutex_);
    return requests_;
  }

  /// Answer the first request, where that can be done now; end after the last; read one more, where there is room.
  void go_on() {
    std::unique_lock lock(mutex_);
    if (requests_.empty() && is_all_read_) {
      lock.unlock();
      finish(last_);
      return;
    }
    std::shared_ptr<Inference> first;
    if (!is_answering_ && !requests_.empty() && requests_.front()->has_ended()) {
      is_answering_ = true;
      first = requests_.front();
    }
    const bool reads = !is_reading_ && !is_all_read_ && requests_.size() < at_once;
    is_reading_ = is_reading_ || reads;
    lock.unlock();
    if (reads) {
      StartRead(&received_);
    }
    if (first) {
      answer(*first);
    }
  }

  void answer(Inference& first) {
    try {
      inference::ModelStreamInferResponse answer;
      if (first.refused()) {
        answer.set_error_message(first.refused()->what());
      } else {
        answer.mutable_infer_response()->Swap(&first.answer());
      }
      write(written(answer));
    } catch (const std::exception& error) {
      {
        const std::scoped_lock lock(mutex_);
        is_all_read_ = true;
      }
      finish(status_of(refusal_of(error, front_.shared.complain)));
    }
  }

  std::mutex mutex_;
  std::deque<std::shared_ptr<Inference>> requests_;
  bool is_reading_ = false;
  bool is_answering_ = false;  // the first
  bool is_all_read_ = false;
  grpc::Status last_;
  grpc::ByteBuffer received_;
};

/// Tells the health of what is asked for, and each change of it.
class Watch : public Writing {
 public:
  Watch(Front& front, Context& context) : Writing(front, context, true) {}

  void OnReadDone(bool ok) override {
    try {
      inference::HealthCheckRequest request;
      if (!ok) {
        throw bad_request("the message is missing");
      }
      moved();
      read(message_, mebibyte, request);
      {
        const std::scoped_lock lock(mutex_);
        service_ = request.service();
      }
      tell();
    } catch (const std::exception& error) {
      finish(status_of(refusal_of(error, front_.shared.complain)));
    }
  }
  void look(Clock::time_point now) override {
    try {
      if (!tell()) {
        check_time(now);
      }
      if (front_.shared.refusing) {
        finish(grpc::Status::OK);
      }
    } catch (const Refused& refused) {
      finish(status_of(refused));
    }
  }

 protected:
  void start() override { StartRead(&message_); }
  void wrote() override {}

 private:
  /// Whether it is known whose health is asked for.
  bool tell() {
    const std::scoped_lock lock(mutex_);
    if (!service_) {
      return false;
    }
    const Health health = health_of(front_.shared, *service_);
    if (health != told_ && write(health_message(health))) {
      told_ = health;
    }
    return true;
  }

  std::mutex mutex_;
  std::optional<std::string> service_;
  std::optional<Health> told_;
  grpc::ByteBuffer message_;
};

}  // namespace

std::shared_ptr<Call> stream_call_of(Front& front, Context& context) {
  if (context.method() == "/inference.GRPCInferenceService/ModelStreamInfer") {
    return std::make_shared<Stream>(front, context);
  }
  if (context.method() == "/grpc.health.v1.Health/Watch") {
    return std::make_shared<Watch>(front, context);
  }
  return nullptr;
}

}  // namespace plainconv::serve::rpc
