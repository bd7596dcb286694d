#include "grpc/inference.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve::rpc {

void Inference::begin(grpc::ByteBuffer& sent, std::chrono::system_clock::time_point deadline) {
  under_way_.emplace(front_.shared.under_way, &front_.shared.handled);
  try {
    ask(sent, deadline);
  } catch (const std::exception& error) {
    give_up(refusal_of(error, front_.shared.complain));
  }
}

void Inference::ask(grpc::ByteBuffer& sent, std::chrono::system_clock::time_point deadline) {
  Service& service = front_.service();
  Facts facts;
  const std::size_t length = sent.Length();
  facts.bytes_in = length;
  room_.grow(length);
  const auto message = std::make_shared<inference::ModelInferRequest>();
  const auto start = Clock::now();
  const auto now = std::chrono::system_clock::now();
  const auto held = std::make_shared<Held>();
  held->message = message;
  std::optional<Seconds> remaining;
  if (deadline < now + service.options().timeout) {
    remaining = std::max(Seconds(0), Seconds(deadline - now));
  }
  const auto keep = [&] {
    const std::scoped_lock lock(mutex_);
    if (!is_ending_) {
      facts_ = facts;
      asked_at_ = facts.model ? std::optional(start) : std::nullopt;
    }
  };
  keep();
  const std::size_t size = read(sent, most_message(service.options()), *message);
  facts.bytes_in = size;
  room_.grow(size - std::min(size, length));
  held->request = decoded(*message, remaining, service.offers_shared_memory());
  facts.model = "";
  facts.id = held->request.id;
  keep();
  check_version(message->model_version());
  auto model = service.store().use(message->model_name());
  facts.model = model->name();
  keep();
  Asked asked{std::move(model), held, start};
  service.prepare(asked, room_);
  asked.job->when_done = [self = shared_from_this()] {
    boost::asio::post(self->front_.answers, [self] { self->finish(); });
  };
  const std::scoped_lock lock(mutex_);
  if (!is_ending_) {
    asked_ = std::move(asked);
    asked_.model->batcher().submit(asked_.job);
  }
}

void Inference::finish() {
  bool is_ending = false;  // by this: what was given up meanwhile is not put anywhere
  try {
    is_ending = asked_.model->batcher().is_done(*asked_.job) && take_end();
    if (is_ending) {
      front_.service().put(asked_);
      answer_ = encoded(asked_);
      room_.hold(answer_.ByteSizeLong());
      front_.service().succeeded(asked_, facts_);
    }
  } catch (const std::exception& error) {
    if (is_ending || take_end()) {
      refuse(refusal_of(error, front_.shared.complain));
    }
    return;
  }
  if (is_ending) {
    tell();
  }
}

void Inference::give_up(const Refused& refused) {
  if (take_end()) {
    refuse(refused);
  }
}

void Inference::refuse(const Refused& refused) {
  refused_ = refused;
  if (asked_at_) {
    front_.service().metrics().failed(facts_.model.value_or(""), refused.reason(), Clock::now() - *asked_at_);
  }
  tell();
}

void Inference::look(Clock::time_point now) {
  std::optional<Refused> refused;
  {
    const std::scoped_lock lock(mutex_);
    if (!is_ending_ && asked_.job && now >= asked_.job->deadline) {
      refused = late(text("the answer was not there within ", in_words(asked_.job->timeout), " s"));
    }
  }
  if (refused) {
    give_up(*refused);
  }
}

bool Inference::take_end() {
  const std::scoped_lock lock(mutex_);
  if (std::exchange(is_ending_, true)) {
    return false;
  }
  if (asked_.job) {
    asked_.model->batcher().abandon(asked_.job);
  }
  return true;
}

void Inference::tell() {
  const Done done = std::exchange(done_, nullptr);
  has_ended_ = true;
  done();
}

}  // namespace plainconv::serve::rpc
