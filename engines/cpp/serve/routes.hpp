// The table of paths: what is asked for, by method and path.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace plainconv::serve {

enum class Endpoint : std::uint8_t {
  server,
  live,
  ready,
  models,
  model,
  model_ready,
  config,
  statistics,
  infer,
  index,
  load,
  unload,
  add_region,
  remove_region,
  regions,
  metrics
};

struct Route {
  Endpoint endpoint;
  std::string model;    // or region of shared memory; "": of all
  std::string version;  // "": any
};

/// Of a path that has been unescaped. Throws Refused where there is none, or the method is another's.
[[nodiscard]] Route route_of(std::string_view method, std::string_view path);

}  // namespace plainconv::serve
