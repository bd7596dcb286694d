// The Open Inference Protocol over gRPC, beside HTTP and before the same queues; with what Triton's clients and load
// balancers call beside it. A build without gRPC has one that cannot be made.
#pragma once

#include <memory>
#include <string_view>

#include "certificates.hpp"
#include "listener.hpp"
#include "shared.hpp"

namespace plainconv::serve {

/// gRPC's version, "" in a build without it.
[[nodiscard]] std::string_view grpc_version();
/// Throws Error in a build without it.
void check_grpc();

class GrpcServer {
 public:
  /// Serves from here on, with TLS where there are certificates. Throws as `check_grpc` does.
  GrpcServer(Listener listener, Shared& shared, Certificates* certificates = nullptr);
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;
  GrpcServer(GrpcServer&&) = delete;
  GrpcServer& operator=(GrpcServer&&) = delete;
  ~GrpcServer();

  /// Say good-bye to every client, once nothing is under way any more, and give up after `grace` what is.
  void stop(Seconds grace);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace plainconv::serve
