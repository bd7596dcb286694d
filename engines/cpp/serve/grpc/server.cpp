#include <fcntl.h>
#include <google/protobuf/stubs/logging.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <optional>
#include <thread>
#include <utility>

#include "grpc/call.hpp"
#include "grpc/codec.hpp"
#include "grpc_server.hpp"
#include "refusals.hpp"
#include "watcher.hpp"

namespace plainconv::serve {

using rpc::Call;
using rpc::Front;

namespace {

constexpr int most_metadata = 64 * 1024;
constexpr int handshake_timeout_ms = 10'000;
constexpr std::chrono::milliseconds every(50);  // a look at what may be late
constexpr std::chrono::milliseconds hold(100);  // that who asks is held before the good-bye
constexpr std::chrono::milliseconds heard(20);  // and after it
constexpr Seconds least_grace(1);

/// TLS by the newest certificate, which each handshake asks for.
class Reloading : public grpc::ServerCredentials {
 public:
  explicit Reloading(const Certificates& certificates) : certificates_(certificates) {}
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& /*none*/) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    auto* options = ::grpc_ssl_server_credentials_create_options_using_config_fetcher(
        GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE, fetch, this);
    auto* credentials = ::grpc_ssl_server_credentials_create_with_options(options);
    const int port = ::grpc_server_add_http2_port(server, address.c_str(), credentials);
    ::grpc_server_credentials_release(credentials);
    return port;
  }

  static grpc_ssl_certificate_config_reload_status fetch(void* self, grpc_ssl_server_certificate_config** config) {
    auto& own = *static_cast<Reloading*>(self);
    const auto newest = own.certificates_.pair();
    const std::scoped_lock lock(own.mutex_);
    if (newest == own.told_) {
      return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    }
    own.told_ = newest;
    grpc_ssl_pem_key_cert_pair pair{newest->key.c_str(), newest->cert.c_str()};
    const char* roots = pair.cert_chain;  // there have to be some, though no client is asked for a certificate
    *config = ::grpc_ssl_server_certificate_config_create(roots, &pair, 1);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const Certificates& certificates_;
  std::mutex mutex_;
  std::shared_ptr<const Certificates::Pair> told_;
};

/// A call that is refused without a look at it.
class Refusing : public grpc::ServerGenericBidiReactor {
 public:
  explicit Refusing(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

class Methods : public grpc::CallbackGenericService {
 public:
  explicit Methods(Front& front) : front_(front) {}

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    auto call = rpc::call_of(front_, *context);
    if (!call) {
      return new Refusing({grpc::UNIMPLEMENTED, "there is no such method"});
    }
    if (!front_.guests.began(context->peer(), call->is_large())) {
      front_.guests.ended(context->peer(), call->is_large(), false);
      return new Refusing(
          rpc::status_of(too_many("the server has as many requests of this address as it takes; try again later")));
    }
    if (front_.count() >= front_.service().options().max_connections) {
      front_.guests.ended(context->peer(), call->is_large(), true);
      return new Refusing(rpc::status_of(too_many("the server has as many requests as it takes; try again later")));
    }
    call->begin();
    bool is_gone = false;
    {
      const std::scoped_lock lock(front_.mutex);
      front_.calls.emplace(call.get(), call);
      is_gone = front_.is_gone;
    }
    if (is_gone) {
      call->leave();
    }
    return call.get();
  }

 private:
  Front& front_;
};

}  // namespace

struct GrpcServer::State {
  Front front;
  Methods methods{front};
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor;
  std::unique_ptr<grpc::Server> server;
  std::optional<Doorway> door;
  std::optional<Watcher> watcher;

  explicit State(Shared& shared) : front(shared) {}

  void build(const Certificates* certificates) {
    const ServeOptions& options = front.service().options();
    const int limit = static_cast<int>(rpc::most_message(options));
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(&methods);
    builder.SetMaxReceiveMessageSize(limit);
    builder.SetMaxSendMessageSize(limit);
    builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, most_metadata);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, rpc::most_streams);
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, handshake_timeout_ms);
    builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);  // it has no limit: see rpc::read
    grpc::ResourceQuota quota("plainconv");
    builder.SetResourceQuota(quota.Resize(options.max_pending));
    std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
    if (certificates != nullptr) {
      credentials = std::make_shared<Reloading>(*certificates);
    }
    acceptor = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, credentials);
    server = builder.BuildAndStart();
    if (!server) {
      throw Error("gRPC cannot be started");
    }
  }

  /// Hand a connection to gRPC, which closes it at its end.
  void take(Doorway::Socket socket, Doorway::Place place) {
    boost::system::error_code code;
    const auto protocol = socket.local_endpoint(code).protocol();
    socket.native_non_blocking(true, code);
    const int copy = ::fcntl(socket.native_handle(), F_DUPFD_CLOEXEC, 0);  // NOLINT(*-vararg)
    if (code || copy < 0) {
      return;
    }
    auto second = std::make_shared<Doorway::Socket>(socket.get_executor(), protocol, copy);
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    front.guests.add(std::move(second), std::move(place));
    connection.fd = socket.release();
    acceptor->HandleNewConnection(&connection);
  }

  void look() {
    const auto now = Clock::now();
    for (const auto& call : front.now()) {
      call->look(now);
    }
    front.guests.look(now);
  }
};

std::string_view grpc_version() {
  static const std::string version = grpc::Version();
  return version;
}

void check_grpc() {}

GrpcServer::GrpcServer(Listener listener, Shared& shared, Certificates* certificates) {
  ::gpr_set_log_function([](gpr_log_func_args*) {});  // else what clients send is written to stderr, as it came
  google::protobuf::SetLogHandler(nullptr);
  state_ = std::make_unique<State>(shared);
  State& state = *state_;
  state.build(certificates);
  state.watcher.emplace(
      every, [&state] { state.look(); }, shared.complain);
  state.door.emplace(std::move(listener), shared.service.options().max_connections,
                     Doorway::Ways{nullptr,
                                   [&state](Doorway::Socket socket, const std::string& /*peer*/, Doorway::Place place) {
                                     state.take(std::move(socket), std::move(place));
                                   },
                                   [&shared](Doorway::Socket& /*socket*/) {
                                     shared.service.metrics().answered("grpc", "UNAVAILABLE");
                                   }});
}

/// What has arrived and has no call yet is cancelled where gRPC ends: so who still asks is held until it has said so.
void GrpcServer::stop(Seconds grace) {
  State& state = *state_;
  state.door->close();
  {
    const std::scoped_lock lock(state.front.mutex);
    if (std::exchange(state.front.is_leaving, true)) {
      return;
    }
  }
  std::this_thread::sleep_for(hold);
  const auto end = std::chrono::system_clock::now() +
                   std::chrono::duration_cast<std::chrono::system_clock::duration>(std::max(grace, least_grace));
  std::thread ending([&] { state.server->Shutdown(end); });
  std::this_thread::sleep_for(heard);
  {
    const std::scoped_lock lock(state.front.mutex);
    state.front.is_gone = true;
  }
  for (const auto& call : state.front.now()) {
    call->leave();
  }
  ending.join();
}

GrpcServer::~GrpcServer() {
  stop(Seconds(0));
  state_->server->Wait();
  state_->watcher.reset();
  state_->front.answers.join();
  state_->front.control.join();
}

}  // namespace plainconv::serve
