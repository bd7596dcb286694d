#include <doctest/doctest.h>

#include "reasons.hpp"

TEST_CASE("each reason is said once, of all that it is of") {
  plainconv::Reasons reasons;
  plainconv::Reasons others;
  reasons.add("no GPU", "a");
  reasons.add("too old", "b");
  others.add("no GPU", "c");
  reasons.merge(others);
  CHECK(others.lines().empty());
  CHECK(reasons.lines() == std::vector<std::string>{"a, c cannot run here: no GPU", "b cannot run here: too old"});
  std::vector<std::string> said;
  const auto warn = [&](const std::string& line) { said.push_back(line); };
  reasons.say(warn, "ONNX Runtime");
  reasons.say(warn, "nothing");
  CHECK(said == std::vector<std::string>{"a, c cannot run here: no GPU; ONNX Runtime runs instead",
                                         "b cannot run here: too old; ONNX Runtime runs instead"});
  reasons.add("again", "d");
  reasons.say({}, "e");
  CHECK(reasons.lines().empty());
}
