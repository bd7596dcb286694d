// What gRPC's health protocol says of the server, and of a model.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <string>

#include "grpc/codec.hpp"
#include "refusals.hpp"
#include "shared.hpp"

namespace plainconv::serve::rpc {

using Health = inference::HealthCheckResponse::ServingStatus;

/// Of "", the server's service, or a model.
[[nodiscard]] inline Health health_of(const Shared& shared, const std::string& service) {
  using inference::HealthCheckResponse;
  try {
    if (!service.empty() && service != "inference.GRPCInferenceService") {
      (void)shared.service.store().use(service);
    }
    return shared.is_ready() ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
  } catch (const Refused& refused) {
    constexpr int not_found = 404;
    return refused.status() == not_found ? HealthCheckResponse::SERVICE_UNKNOWN : HealthCheckResponse::NOT_SERVING;
  }
}

[[nodiscard]] inline grpc::ByteBuffer health_message(Health status) {
  inference::HealthCheckResponse answer;
  answer.set_status(status);
  return written(answer);
}

}  // namespace plainconv::serve::rpc
