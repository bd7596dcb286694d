#include "grpc_server.hpp"

namespace plainconv::serve {

struct GrpcServer::State {};

std::string_view grpc_version() { return ""; }

void check_grpc() {
  throw Error(
      "this bundle-serve was built without gRPC; build it where libgrpc++-dev, libprotobuf-dev and "
      "protobuf-compiler-grpc are installed");
}

GrpcServer::GrpcServer(Listener /*listener*/, Shared& /*shared*/, Certificates* /*certificates*/) { check_grpc(); }

GrpcServer::~GrpcServer() = default;

void GrpcServer::stop(Seconds /*grace*/) {}

}  // namespace plainconv::serve
