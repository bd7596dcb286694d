// Why what was to run does not run here, and what runs in its place.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace plainconv {

/// For each reason, in the order in which they came, the engines, or else, that it is of.
class Reasons {
 public:
  void add(const std::string& reason, const std::string& of);
  /// Takes over those of another, which has none afterwards.
  void merge(Reasons& other);

  /// "FILES cannot run here: REASON", a line for each.
  [[nodiscard]] std::vector<std::string> lines() const;

  /// Tells each line, and that `instead` runs, to `warn`, if that is there, once: there are none afterwards.
  void say(const std::function<void(const std::string&)>& warn, std::string_view instead);

 private:
  std::vector<std::pair<std::string, std::vector<std::string>>> all_;
};

}  // namespace plainconv
