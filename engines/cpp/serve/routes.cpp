#include "routes.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <vector>

#include "refusals.hpp"

namespace plainconv::serve {
namespace {

struct Row {
  Endpoint endpoint;
  std::string_view method;
  std::string_view path;  // {m} is the model or region, {v} the model's version
};

constexpr std::array table = {
    Row{Endpoint::server, "GET", "/v2"},
    Row{Endpoint::live, "GET", "/v2/health/live"},
    Row{Endpoint::ready, "GET", "/v2/health/ready"},
    Row{Endpoint::models, "GET", "/v2/models"},
    Row{Endpoint::statistics, "GET", "/v2/models/stats"},
    Row{Endpoint::model, "GET", "/v2/models/{m}"},
    Row{Endpoint::model, "GET", "/v2/models/{m}/versions/{v}"},
    Row{Endpoint::model_ready, "GET", "/v2/models/{m}/ready"},
    Row{Endpoint::model_ready, "GET", "/v2/models/{m}/versions/{v}/ready"},
    Row{Endpoint::config, "GET", "/v2/models/{m}/config"},
    Row{Endpoint::config, "GET", "/v2/models/{m}/versions/{v}/config"},
    Row{Endpoint::statistics, "GET", "/v2/models/{m}/stats"},
    Row{Endpoint::statistics, "GET", "/v2/models/{m}/versions/{v}/stats"},
    Row{Endpoint::infer, "POST", "/v2/models/{m}/infer"},
    Row{Endpoint::infer, "POST", "/v2/models/{m}/versions/{v}/infer"},
    Row{Endpoint::index, "POST", "/v2/repository/index"},
    Row{Endpoint::load, "POST", "/v2/repository/models/{m}/load"},
    Row{Endpoint::unload, "POST", "/v2/repository/models/{m}/unload"},
    Row{Endpoint::add_region, "POST", "/v2/systemsharedmemory/region/{m}/register"},
    Row{Endpoint::remove_region, "POST", "/v2/systemsharedmemory/region/{m}/unregister"},
    Row{Endpoint::remove_region, "POST", "/v2/systemsharedmemory/unregister"},
    Row{Endpoint::regions, "GET", "/v2/systemsharedmemory/region/{m}/status"},
    Row{Endpoint::regions, "GET", "/v2/systemsharedmemory/status"},
    Row{Endpoint::metrics, "GET", "/metrics"},
};

std::vector<std::string_view> steps_of(std::string_view path) {
  std::vector<std::string_view> steps;
  while (true) {
    const auto slash = path.find('/');
    steps.push_back(path.substr(0, slash));
    if (slash == std::string_view::npos) {
      return steps;
    }
    path.remove_prefix(slash + 1);
  }
}

std::optional<Route> matched(const Row& row, std::span<const std::string_view> steps) {
  const auto wanted = steps_of(row.path);
  Route route{row.endpoint, "", ""};
  if (wanted.size() != steps.size()) {
    return std::nullopt;
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (wanted[i] == "{m}" && !steps[i].empty()) {
      route.model = steps[i];
    } else if (wanted[i] == "{v}" && !steps[i].empty()) {
      route.version = steps[i];
    } else if (wanted[i] != steps[i]) {
      return std::nullopt;
    }
  }
  return route;
}

}  // namespace

Route route_of(std::string_view method, std::string_view path) {
  const auto steps = steps_of(path);
  for (const Row& row : table) {
    if (auto route = matched(row, steps)) {
      const bool is_get = row.method == "GET";
      if (row.method == method || (is_get && method == "HEAD")) {
        return *std::move(route);
      }
      throw wrong_method(is_get ? "GET, HEAD" : row.method);
    }
  }
  throw unknown("there is nothing at this path; see /v2/models");
}

}  // namespace plainconv::serve
