#include <doctest/doctest.h>

#include "doubles.hpp"
#include "refusals.hpp"
#include "routes.hpp"

using plainconv::serve::Endpoint;
using plainconv::serve::Refused;
using plainconv::serve::route_of;

TEST_CASE("paths lead where the protocol says") {
  CHECK(route_of("GET", "/v2").endpoint == Endpoint::server);
  CHECK(route_of("GET", "/metrics").endpoint == Endpoint::metrics);
  const auto infer = route_of("POST", "/v2/models/a b/versions/7/infer");
  CHECK((infer.endpoint == Endpoint::infer && infer.model == "a b" && infer.version == "7"));
  CHECK(route_of("GET", "/v2/models/ready").version.empty());
  CHECK(route_of("GET", "/v2/models/stats").endpoint == Endpoint::statistics);
  CHECK(route_of("GET", "/v2/models/stats/ready").model == "stats");
  CHECK(route_of("POST", "/v2/repository/models/a/unload").endpoint == Endpoint::unload);
  CHECK(route_of("GET", "/v2/models/m/ready").endpoint == Endpoint::model_ready);
}

TEST_CASE("other paths and methods are refused") {
  for (const char* path : {"", "/", "v2", "/v2/", "//v2", "/v2/models/", "/v2/models//infer", "/v2/models/m/infer/",
                           "/v2/models/a/b/infer", "/V2", "/v2/models/m/versions//infer"}) {
    CAPTURE(path);
    CHECK(contains(thrown_by<Refused>([&] { (void)route_of("POST", path); }), "there is nothing at this path"));
  }
  CHECK(thrown_by<Refused>([] { (void)route_of("GET", "/v2/models/m/infer"); }) == "this path takes another method");
  CHECK(route_of("HEAD", "/v2").endpoint == Endpoint::server);
  CHECK(thrown_by<Refused>([] { (void)route_of("HEAD", "/v2/models/m/infer"); }) == "this path takes another method");
}
