// The table of paths: what is asked for, by method and path.
#pragma once

#include <cstdint>
#include <optional>
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
  infer,
  repository,  // all of it, which is not offered
  metrics
};

struct Route {
  Endpoint endpoint;
  std::string model;
  std::optional<std::string> version;
};

/// Of a path that has been unescaped. Throws Refused where there is none, or the method is another's.
[[nodiscard]] Route route_of(std::string_view method, std::string_view path);

}  // namespace plainconv::serve
