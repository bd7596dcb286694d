// The bearer token: compared in constant time, and never written anywhere.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace plainconv::serve {

/// Checks the Authorization of a request. An empty token lets everyone in.
class Bearer {
 public:
  explicit Bearer(std::string_view token);

  /// Throws Refused where `authorization` is not "Bearer TOKEN".
  void check(std::optional<std::string_view> authorization) const;

 private:
  std::string digest_;  // of one length whatever the token, so that not even that is told by the time it takes
};

/// The token that a file holds. Throws Error.
[[nodiscard]] std::string token_of_file(const std::string& path);

}  // namespace plainconv::serve
