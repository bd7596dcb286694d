// The methods that take one message and give one. What is not an inference says what REST says: its JSON, as a message.
#include <google/protobuf/util/json_util.h>

#include <array>
#include <atomic>
#include <boost/asio/post.hpp>

#include "bundle/json_tree.hpp"
#include "grpc/call.hpp"
#include "grpc/codec.hpp"
#include "grpc/health.hpp"
#include "grpc/inference.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve::rpc {
namespace {

constexpr std::size_t most_control = mebibyte;  // of a message that is no inference

template <class Request>
Request request_of(grpc::ByteBuffer& sent) {
  Request request;
  read(sent, most_control, request);
  return request;
}

template <class Answer>
grpc::ByteBuffer answer_of(const std::string& json) {
  Answer answer;
  const auto status = google::protobuf::util::JsonStringToMessage(json, &answer);
  if (!status.ok()) {
    throw std::logic_error(text("no message is ", json));
  }
  return written(answer);
}

std::string flag(std::string_view name, bool value) { return text("{\"", name, "\":", value ? "true" : "false", "}"); }

std::string model_of(const inference::RepositoryModelRequest& request) {
  return request.model_name().empty() ? request.repository_name() : request.model_name();
}

bool is_model_ready(const Front& front, const inference::ModelRequest& request) {
  try {
    (void)front.service().model_ready(request.name(), request.version());
    return !front.shared.draining;
  } catch (const Refused&) {
    return false;
  }
}

using Answers = grpc::ByteBuffer (*)(const Front& front, grpc::ByteBuffer& sent);

/// A method: what it is called, what answers it, who may ask, and whether it takes long.
struct Method {
  std::string_view path;
  Answers answers;
  bool is_open = false;
  bool is_slow = false;
};

/// Of those whose request is a model's name and version.
template <class Answer, std::string (Service::*Said)(std::string_view, std::string_view) const>
grpc::ByteBuffer said_of_model(const Front& front, grpc::ByteBuffer& sent) {
  const auto request = request_of<inference::ModelRequest>(sent);
  return answer_of<Answer>((front.service().*Said)(request.name(), request.version()));
}

constexpr std::array methods = {
    Method{"/inference.GRPCInferenceService/ServerLive",
           [](const Front&, grpc::ByteBuffer&) { return answer_of<inference::ServerLiveResponse>(flag("live", true)); },
           true},
    Method{"/inference.GRPCInferenceService/ServerReady",
           [](const Front& front, grpc::ByteBuffer&) {
             return answer_of<inference::ServerReadyResponse>(flag("ready", front.shared.is_ready()));
           },
           true},
    Method{"/grpc.health.v1.Health/Check",
           [](const Front& front, grpc::ByteBuffer& sent) {
             const auto status = health_of(front.shared, request_of<inference::HealthCheckRequest>(sent).service());
             if (status == inference::HealthCheckResponse::SERVICE_UNKNOWN) {
               throw unknown("there is no such service; wanted none, or a model");
             }
             return health_message(status);
           },
           true},
    Method{"/inference.GRPCInferenceService/ModelReady",
           [](const Front& front, grpc::ByteBuffer& sent) {
             const bool is_ready = is_model_ready(front, request_of<inference::ModelRequest>(sent));
             return answer_of<inference::ModelReadyResponse>(flag("ready", is_ready));
           }},
    Method{"/inference.GRPCInferenceService/ServerMetadata",
           [](const Front& front, grpc::ByteBuffer&) {
             return answer_of<inference::ServerMetadataResponse>(front.service().server_metadata());
           }},
    Method{"/inference.GRPCInferenceService/ModelMetadata",
           said_of_model<inference::ModelMetadataResponse, &Service::model_metadata>},
    Method{"/inference.GRPCInferenceService/ModelStatistics",
           said_of_model<inference::ModelStatisticsResponse, &Service::statistics>},
    Method{"/inference.GRPCInferenceService/ModelConfig",
           [](const Front& front, grpc::ByteBuffer& sent) {
             const auto request = request_of<inference::ModelRequest>(sent);
             return answer_of<inference::ModelConfigResponse>(
                 text(R"({"config":)", front.service().config(request.name(), request.version()), "}"));
           }},
    Method{"/inference.GRPCInferenceService/RepositoryIndex",
           [](const Front& front, grpc::ByteBuffer& sent) {
             const auto request = request_of<inference::RepositoryIndexRequest>(sent);
             front.service().check_repository();
             return answer_of<inference::RepositoryIndexResponse>(
                 text(R"({"models":)", front.service().index(request.ready()), "}"));
           },
           false, true},
    Method{"/inference.GRPCInferenceService/RepositoryModelLoad",
           [](const Front& front, grpc::ByteBuffer& sent) {
             const auto request = request_of<inference::RepositoryModelRequest>(sent);
             if (request.parameters_size() != 0) {
               throw bad_request("loading takes no parameters here: a model is what its bundle says; leave them out");
             }
             front.service().check_repository();
             front.service().store().load(model_of(request));
             return answer_of<inference::RepositoryModelLoadResponse>(
                 text(R"({"model_name":)", json_text(model_of(request)), R"(,"isLoaded":true})"));
           },
           false, true},
    Method{"/inference.GRPCInferenceService/RepositoryModelUnload",
           [](const Front& front, grpc::ByteBuffer& sent) {
             const auto request = request_of<inference::RepositoryModelRequest>(sent);
             front.service().check_repository();
             front.service().store().unload(model_of(request));
             return answer_of<inference::RepositoryModelUnloadResponse>(
                 text(R"({"model_name":)", json_text(model_of(request)), R"(,"isUnloaded":true})"));
           },
           false, true},
    Method{"/inference.GRPCInferenceService/SystemSharedMemoryRegister",
           [](const Front& front, grpc::ByteBuffer& sent) {
             const auto request = request_of<inference::SystemSharedMemoryRegisterRequest>(sent);
             const json::Value key(request.key());
             const json::Value offset = json::value_of(std::uint64_t{request.offset()});
             const json::Value size = json::value_of(std::uint64_t{request.byte_size()});
             front.service().regions().add(request.name(), &key, &offset, &size);
             return written(inference::SystemSharedMemoryRegisterResponse());
           }},
    Method{"/inference.GRPCInferenceService/SystemSharedMemoryUnregister",
           [](const Front& front, grpc::ByteBuffer& sent) {
             const auto request = request_of<inference::SystemSharedMemoryUnregisterRequest>(sent);
             front.service().regions().remove(request.name());
             return written(inference::SystemSharedMemoryUnregisterResponse());
           }},
    Method{"/inference.GRPCInferenceService/SystemSharedMemoryStatus",
           [](const Front& front, grpc::ByteBuffer& sent) {
             const auto request = request_of<inference::SystemSharedMemoryStatusRequest>(sent);
             return answer_of<inference::SystemSharedMemoryStatusResponse>(
                 front.service().shared_memory_status(request.name(), true));
           }},
};

/// Reads its message, once.
class Unary : public Call {
 public:
  using Call::Call;

  void look(Clock::time_point now) override {
    try {
      if (!has_message_) {
        check_time(now);
      }
    } catch (const Refused& refused) {
      end(refused);
    }
  }
  void leave() override {
    if (!has_message_) {
      refuse(about_to_stop());
    }
  }
  void OnReadDone(bool ok) override {
    if (ok) {
      has_message_ = true;
      moved();
      take(message_);
    } else {
      refuse(bad_request("the message is missing, or larger than this server takes"));
    }
  }

 protected:
  void start() override {
    is_read_ = true;
    StartRead(&message_);
  }
  virtual void take(grpc::ByteBuffer& message) = 0;
  virtual void refuse(const Refused& refused) { end(refused); }
  void left() override {
    if (has_message_ || !is_read_) {  // else the reading fails, which says so: of a message that is too large, too
      refuse(serve::left("the sender left before the answer was there"));
    }
  }
  [[nodiscard]] bool has_message() const noexcept { return has_message_; }

 private:
  std::atomic<bool> is_read_ = false;
  std::atomic<bool> has_message_ = false;
  grpc::ByteBuffer message_;
};

class Control : public Unary {
 public:
  Control(Front& front, Context& context, const Method& method)
      : Unary(front, context, method.is_open), method_(method) {}

 protected:
  void take(grpc::ByteBuffer& message) override {
    under_way_.emplace(front_.shared.under_way, &front_.shared.handled);
    if (method_.is_slow) {
      boost::asio::post(front_.control, [this, self = shared_from_this(), &message] { answer(message); });
    } else {
      answer(message);
    }
  }

 private:
  void answer(grpc::ByteBuffer& message) {
    Facts facts;
    facts.bytes_in = message.Length();
    try {
      Service::Room room(front_.service(), peer_);
      room.grow(message.Length());
      const grpc::ByteBuffer answer = method_.answers(front_, message);
      end(grpc::Status::OK, &answer, std::move(facts));
    } catch (const std::exception& error) {
      end(refusal_of(error, front_.shared.complain), std::move(facts));
    }
  }

  const Method& method_;
  std::optional<Counted> under_way_;
};

class Infer : public Unary {
 public:
  Infer(Front& front, Context& context) : Unary(front, context, false) {}

  void look(Clock::time_point now) override {
    if (const auto asked = inference_; asked && has_message()) {
      asked->look(now);
    } else {
      Unary::look(now);
    }
  }

 protected:
  void start() override {
    inference_ = std::make_shared<Inference>(front_, peer_, [this, self = shared_from_this()] { answer(); });
    Unary::start();
  }
  void take(grpc::ByteBuffer& message) override { inference_->begin(message, context_.deadline()); }
  void refuse(const Refused& refused) override {
    if (inference_) {
      inference_->give_up(refused);
    } else {  // it was not begun
      end(refused);
    }
  }

 private:
  void answer() {
    const auto& refused = inference_->refused();
    if (refused) {
      end(*refused, inference_->facts());
      return;
    }
    try {
      const grpc::ByteBuffer answer = written(inference_->answer());
      end(grpc::Status::OK, &answer, inference_->facts());
    } catch (const std::exception& error) {
      end(refusal_of(error, front_.shared.complain), inference_->facts());
    }
  }

  std::shared_ptr<Inference> inference_;
};

}  // namespace

std::shared_ptr<Call> unary_call_of(Front& front, Context& context) {
  if (context.method() == "/inference.GRPCInferenceService/ModelInfer") {
    return std::make_shared<Infer>(front, context);
  }
  const auto* found = std::ranges::find(methods, std::string_view(context.method()), &Method::path);
  return found == methods.end() ? nullptr : std::make_shared<Control>(front, context, *found);
}

}  // namespace plainconv::serve::rpc
